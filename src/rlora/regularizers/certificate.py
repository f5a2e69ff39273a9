"""The arithmetic of a certificate: from a posterior's risk and divergence to a bound, with every payment listed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlora.regularizers import bounds
from rlora.regularizers.posterior import GaussianPosterior

GRID_TOP = 1.0  # variance, and steps for each factor e, of the grid a prior's variance may be chosen from afterwards
GRID_STEPS = 10


@dataclass(frozen=True)
class CertificateOptions:
    """How certain a certificate shall be, and what has to be paid for.

    Attributes:
        delta: Probability with which the PAC-Bayes bound may fail.
        delta_mc: Probability with which the estimate of the posterior's risk may fail (delta').
        draws: Least number of independent draws from the posterior.
        rows_per_draw: Rows that share a draw, where examples cannot each have their own.
        candidates: Priors (sigma0, splits, ...) that were tried on the certified examples, this one included.
        tune_sigma0: Choose the prior's variances afterwards, from a grid that is paid for.
        rival: Folder of a run that never trained on the certified rows, to compare with; None: a learned prior's.

    Raises:
        ValueError: an option is out of its range.
    """

    delta: float = 0.025
    delta_mc: float = 0.01
    draws: int = 10_000
    rows_per_draw: int = 16
    candidates: int = 1
    tune_sigma0: bool = False
    rival: str | None = None

    def __post_init__(self) -> None:
        bounds.check_delta(self.delta, "certificate.delta")
        bounds.check_delta(self.delta_mc, "certificate.delta_mc")
        if self.delta + self.delta_mc >= 1:
            raise ValueError(
                f"certificate.delta={self.delta} and certificate.delta_mc={self.delta_mc} must add up to less than 1"
            )
        for key in ("draws", "rows_per_draw", "candidates"):
            bounds.check_count(getattr(self, key), f"certificate.{key}")


@dataclass(frozen=True)
class GibbsRisk:
    """The posterior's empirical 0-1 risk, as drawn.

    Attributes:
        risk: Mean over rows and draws.
        rows: n, the examples it is about.
        draws: m, independent draws whose losses in [0, 1] it is the mean of.
    """

    risk: float
    rows: int
    draws: int


@dataclass(frozen=True)
class Payment:
    """What a choice costs, in nats on top of KL."""

    what: str
    nats: float


@dataclass(frozen=True)
class Bound:
    """A bound on the posterior's risk: risk_upper covers the draws, bound the examples as well."""

    risk: float
    risk_upper: float
    rows: int
    draws: int
    bound: float


def divergence_of(
    posterior: GaussianPosterior, options: CertificateOptions
) -> tuple[float, list[Payment]]:
    """KL(Q || P) in nats and what the choice of P costs.

    With `tune_sigma0` each group's sigma0^2 is the best of exp(-j / 10), j = 1, 2, ..., which costs 2 ln j + ln(pi^2 /
    6) (Dziugaite and Roy, UAI 2017, section 3.1).

    Raises:
        ValueError: a sigma has underflowed.
    """
    payments = [Payment(f"{options.candidates} candidates", math.log(options.candidates))]
    total = 0.0
    with torch.no_grad():
        for group in posterior.members:
            if not bool((posterior.sigma(group) > 0).all()):
                raise ValueError(
                    f"a sigma of the {group} has underflowed to 0, where KL is infinite: use a larger "
                    f"regularizer.sigma_{group}, or a smaller regularizer.lr"
                )
            if options.tune_sigma0:
                divergence, j = _best_on_grid(posterior, group)
                payments.append(
                    Payment(
                        f"sigma_{group}^2 = exp(-{j}/{GRID_STEPS})",
                        2 * math.log(j) + math.log(math.pi**2 / 6),
                    )
                )
            else:
                divergence = posterior.group_kl(group, posterior.sigma0(group)).item()
            total += divergence
    return total, payments


def _best_on_grid(posterior: GaussianPosterior, group: str) -> tuple[float, int]:
    shift, sigma = (
        (posterior.mean(group) - posterior.mean0(group)).double(),
        posterior.sigma(group).double(),
    )
    best = (shift.square() + sigma.square()).mean().item()  # where KL is least, payment apart
    middle = GRID_STEPS * math.log(GRID_TOP / best)
    candidates = {max(1, math.floor(middle) + step) for step in (-1, 0, 1, 2)}

    def cost(j: int) -> float:
        return _on_grid(posterior, group, j) + 2 * math.log(j)

    j = min(candidates, key=cost)
    return _on_grid(posterior, group, j), j


def _on_grid(posterior: GaussianPosterior, group: str, j: int) -> float:
    return posterior.group_kl(
        group, torch.tensor(math.sqrt(GRID_TOP * math.exp(-j / GRID_STEPS)))
    ).item()


def bound_of(
    found: GibbsRisk, divergence: float, payments: Sequence[Payment], options: CertificateOptions
) -> Bound:
    """The two steps: klinv over the draws at delta', then klinv over the examples at delta.

        r_up = klinv(r, ln(1 / delta') / m)
        bound = klinv(r_up, (KL + payments + ln(2 sqrt(n) / delta)) / n)

    It holds with probability at least 1 - delta - delta' for independent examples.
    """
    upper = bounds.chernoff(found.risk, found.draws, options.delta_mc)
    paid = divergence + sum(payment.nats for payment in payments)
    c = bounds.complexity(paid, found.rows, options.delta)
    return Bound(found.risk, upper.item(), found.rows, found.draws, bounds.klinv(upper, c).item())


def rival_of(errors: int, rows: int, options: CertificateOptions) -> dict[str, Any]:
    """Clopper-Pearson's bound, at the same confidence, on a predictor that never trained on these rows."""
    bound = bounds.clopper_pearson(errors, rows, options.delta + options.delta_mc)
    return {"error": errors / rows, "rows": rows, "bound": bound}
