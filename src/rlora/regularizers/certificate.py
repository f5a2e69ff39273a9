"""Arithmetic of a certificate: from a posterior's risk and KL to a bound, term by term."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlora.regularizers import bounds
from rlora.regularizers.posterior import GaussianPosterior

# The prior variance may be chosen afterwards from sigma0^2 = GRID_TOP * exp(-j / GRID_STEPS).
GRID_TOP = 1.0
GRID_STEPS = 10


@dataclass(frozen=True)
class CertificateOptions:
    """Confidence of a certificate, its cost, and the choices that its union bound covers.

    Attributes:
        delta: Probability with which the PAC-Bayes bound may fail.
        delta_mc: Probability with which the estimate of the posterior risk may fail (delta').
        draws: Minimum number of independent posterior samples.
        rows_per_draw: Rows that share a posterior sample where the model does not support one
            sample per row.
        candidates: Number of priors (sigma0, splits, ...) tried on the certified examples,
            including this one.
        tune_sigma0: Choose the prior variances afterwards from a grid, under a union bound.
        baseline: Folder of a run that never trained on the certified rows, to compare with. None:
            the mean of a learned prior, if there is one.

    Raises:
        ValueError: an option is out of range.
    """

    delta: float = 0.025
    delta_mc: float = 0.01
    draws: int = 10_000
    rows_per_draw: int = 16
    candidates: int = 1
    tune_sigma0: bool = False
    baseline: str | None = None

    def __post_init__(self) -> None:
        bounds.check_delta(self.delta, "certificate.delta")
        bounds.check_delta(self.delta_mc, "certificate.delta_mc")
        if self.delta + self.delta_mc >= 1:
            raise ValueError(
                f"certificate.delta={self.delta} and certificate.delta_mc={self.delta_mc} are "
                "invalid: expected a sum below 1"
            )
        for key in ("draws", "rows_per_draw", "candidates"):
            bounds.check_count(getattr(self, key), f"certificate.{key}")


@dataclass(frozen=True)
class GibbsRisk:
    """Monte Carlo estimate of the posterior's empirical 0-1 risk.

    Attributes:
        risk: Mean loss over rows and posterior samples.
        rows: n, the number of examples.
        draws: m, the number of independent losses in [0, 1] that the risk averages.
    """

    risk: float
    rows: int
    draws: int


@dataclass(frozen=True)
class UnionBoundTerm:
    """What one choice made on the certified examples adds to KL.

    Attributes:
        choice: What was chosen.
        nats: Size of the term.
    """

    choice: str
    nats: float


@dataclass(frozen=True)
class Bound:
    """A bound on the posterior risk.

    Attributes:
        risk: The Monte Carlo estimate.
        risk_upper: Upper bound on the empirical risk, which covers the sampling of the posterior.
        rows: n, the number of examples.
        draws: m, the number of independent losses.
        bound: Upper bound on the true risk, which covers the sampling of the examples as well.
    """

    risk: float
    risk_upper: float
    rows: int
    draws: int
    bound: float


def kl_and_terms(
    posterior: GaussianPosterior, options: CertificateOptions
) -> tuple[float, list[UnionBoundTerm]]:
    """Return KL(Q || P) in nats and the union-bound terms for the choice of P.

    `candidates` priors cost ln(candidates). With `tune_sigma0`, sigma0^2 of each group is the best
    of exp(-j / 10), j = 1, 2, ..., at a cost of 2 ln j + ln(pi^2 / 6) (Dziugaite and Roy, UAI 2017,
    section 3.1).

    Raises:
        ValueError: a posterior sigma has underflowed.
    """
    terms = [UnionBoundTerm(f"{options.candidates} candidates", math.log(options.candidates))]
    total = 0.0
    with torch.no_grad():
        for group in posterior.members:
            if not bool((posterior.sigma(group) > 0).all()):
                raise ValueError(
                    f"a posterior sigma of the {group} has underflowed to 0, where KL is infinite; "
                    f"set a larger regularizer.sigma_{group} or a smaller regularizer.lr"
                )
            if options.tune_sigma0:
                divergence, j = _best_on_grid(posterior, group)
                choice = f"sigma_{group}^2 = exp(-{j}/{GRID_STEPS})"
                terms.append(UnionBoundTerm(choice, 2 * math.log(j) + math.log(math.pi**2 / 6)))
            else:
                divergence = posterior.group_kl(group, posterior.sigma0(group)).item()
            total += divergence
    return total, terms


def _best_on_grid(posterior: GaussianPosterior, group: str) -> tuple[float, int]:
    """Return the least KL plus union-bound term over the grid as (KL, j)."""
    shift = (posterior.mean(group) - posterior.mean0(group)).double()
    sigma = posterior.sigma(group).double()
    # KL alone is least at sigma0^2 = mean((mu - mu0)^2 + sigma^2). The term 2 ln j varies slowly,
    # so the best j is next to it.
    variance = (shift.square() + sigma.square()).mean().item()
    middle = math.floor(GRID_STEPS * math.log(GRID_TOP / variance))
    candidates = {max(1, middle + step) for step in (-1, 0, 1, 2)}

    def cost(j: int) -> float:
        return _kl_on_grid(posterior, group, j) + 2 * math.log(j)

    j = min(candidates, key=cost)
    return _kl_on_grid(posterior, group, j), j


def _kl_on_grid(posterior: GaussianPosterior, group: str, j: int) -> float:
    sigma0 = torch.tensor(math.sqrt(GRID_TOP * math.exp(-j / GRID_STEPS)))
    return posterior.group_kl(group, sigma0).item()


def risk_bound(
    gibbs: GibbsRisk, kl: float, terms: Sequence[UnionBoundTerm], options: CertificateOptions
) -> Bound:
    """Bound the true posterior risk in two steps, first over samples, then over examples.

        r_up  = klinv(r, ln(1 / delta') / m)
        bound = klinv(r_up, (KL + terms + ln(2 sqrt(n) / delta)) / n)

    It holds with probability at least 1 - delta - delta' if the examples are independent.
    """
    upper = bounds.chernoff(gibbs.risk, gibbs.draws, options.delta_mc)
    c = bounds.complexity(kl + sum(term.nats for term in terms), gibbs.rows, options.delta)
    bound = bounds.klinv(upper, c).item()
    return Bound(gibbs.risk, upper.item(), gibbs.rows, gibbs.draws, bound)


def baseline_bound(errors: int, rows: int, options: CertificateOptions) -> dict[str, Any]:
    """Return the held-out baseline: Clopper-Pearson at the certificate's total confidence.

    It bounds the risk of one predictor that never trained on these rows.
    """
    bound = bounds.clopper_pearson(errors, rows, options.delta + options.delta_mc)
    return {"error": errors / rows, "rows": rows, "bound": bound}
