"""Training under a PAC-Bayes objective; Dziugaite and Roy, UAI 2017; Perez-Ortiz et al., JMLR 2021; Liu et al. 2023."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rlora.regularizers import bounds
from rlora.regularizers.base import Regularizer, Step
from rlora.regularizers.noise import check_draws_for_each, draw_for_each, one_draw
from rlora.regularizers.posterior import GaussianPosterior

BOUNDED = {
    "mcallester": bounds.mcallester,
    "quadratic": bounds.quadratic,
    "lambda": None,
    "kl": bounds.klinv,
}
FREE = ("elbo", "pac_tuning")  # of any loss, bounded or not
NOISES = ("per_step", "per_example", "none")
LEARNED_RATE = 0.02


class PACBayes(Regularizer):
    """Train a diagonal Gaussian posterior over everything that trains, by a bound or a free energy.

    With c = (KL + ln(2 sqrt(n) / delta)) / n, r the bounded loss and L the task's own:

        mcallester  r + sqrt(c / 2)                  quadratic   (sqrt(r + c / 2) + sqrt(c / 2))^2
        lambda      r / (1 - l / 2) + c / (l (1 - l / 2)), l trained in (0, 2)
        kl          the largest p with kl(r || p) <= c
        elbo        L + beta KL / n
        pac_tuning  L + (KL + ln(1 / delta)) / (gamma n) + gamma K^2, then L alone under the noise that was learned
                    (Liu et al., EMNLP 2023)

    A step sees mu + sigma eps, so that the gradients of mu and rho = ln sigma come by way of the noise, exactly, under
    accumulation of gradients and on several ranks too, which share the step's noise.

    Args:
        objective: One of the six.
        noise: "per_step" (one draw), "per_example" (each its own; adapters that multiply activations, and linear heads)
            or "none" (the means, with KL alone).
        prior: "start" (the start values, no data), "split" (learned on a part of the training set that is then left
            alone), or the folder of a run that learned it so.
        sigma_adapter: sigma0 of what the adapter trains, where sigma starts.
        sigma_head: The same of the head.
        lr: Learning rate of rho (and l), some ten to a hundred times that of the means.
        mean_rate: Factor on the optimizer's learning rates of the means, above 0; None: 1, and 0.02 where the prior was
            learned, which is left by small steps only.
        delta: Probability with which the bound may fail, in (0, 1).
        beta: KL's weight in elbo, above 0; below 1 it tempers.
        gamma: Of pac_tuning, above 0; None: the one that minimizes its two terms, sqrt((KL + ln(1 / delta)) / n) / K.
        moment: K of pac_tuning, above 0.
        first_stage: Share of the steps in pac_tuning's first stage, in (0, 1).

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        *,
        objective: str = "quadratic",
        noise: str = "per_step",
        prior: str = "start",
        sigma_adapter: float = 0.01,
        sigma_head: float = 0.01,
        lr: float = 0.01,
        mean_rate: float | None = None,
        delta: float = 0.025,
        beta: float = 1.0,
        gamma: float | None = None,
        moment: float = 1.0,
        first_stage: float = 0.5,
    ) -> None:
        super().__init__()
        if objective not in (*BOUNDED, *FREE):
            raise ValueError(
                f"regularizer.objective={objective!r} is unknown: choose one of {', '.join((*BOUNDED, *FREE))}"
            )
        if noise not in NOISES:
            raise ValueError(
                f"regularizer.noise={noise!r} is unknown: choose one of {', '.join(NOISES)}"
            )
        bounds.check_delta(delta, "regularizer.delta")
        numbers = {"lr": lr, "mean_rate": mean_rate, "beta": beta, "gamma": gamma, "moment": moment}
        for key, value in numbers.items():
            if value is None and key in ("mean_rate", "gamma"):
                continue
            if value is None or not (math.isfinite(value) and value > 0):
                raise ValueError(f"regularizer.{key}={value} must be a finite number above 0")
        if not 0 < first_stage < 1:
            raise ValueError(
                f"regularizer.first_stage={first_stage} must lie strictly between 0 and 1: it is a share"
            )
        self.kind, self.noise, self.prior, self.lr, self.delta = objective, noise, prior, lr, delta
        self._mean_rate = (
            (1.0 if prior == "start" else LEARNED_RATE) if mean_rate is None else mean_rate
        )
        self.beta, self.gamma, self.moment, self.first_stage = beta, gamma, moment, first_stage
        self.sigma0 = {"adapter": sigma_adapter, "head": sigma_head}
        self.needs_bounded_loss = objective in BOUNDED
        self.logit = (
            nn.Parameter(torch.zeros(())) if objective == "lambda" else None
        )  # l = 2 sigmoid(logit)
        self._facts: dict[str, Tensor] = {}

    def prepare(
        self,
        model: nn.Module,
        parameters: Mapping[str, Mapping[str, nn.Parameter]],
        num_examples: int,
    ) -> None:
        """Make the posterior around the parameters' present values, which become the prior's mean.

        Raises:
            ValueError: n below 1, nothing trains, or the noise does not fit the adapter or the head.
        """
        self.num_examples = bounds.check_count(num_examples, "the number of training examples")
        if not any(parameters.values()):
            raise ValueError(
                "regularizer=pac_bayes needs something that trains: this model has nothing"
            )
        self.posterior = GaussianPosterior(model, parameters, self.sigma0)
        if self.noise == "per_example":
            check_draws_for_each(self.posterior)

    def recenter(self) -> None:
        """Make the present means the prior's."""
        self.posterior.recenter()

    def perturbed(self, step: Step) -> AbstractContextManager[None]:
        """The parameters with noise; the same for all of the step's examples and ranks, or each example's own."""
        if self.noise == "none":
            return nullcontext()
        if self.noise == "per_example":
            # ranks hold different examples, whose draws must differ
            return draw_for_each(self.posterior, (step.seed + step.rank) % 2**62, step.examples)
        return one_draw(self.posterior, step.seed)

    def objective(self, step: Step, loss: Tensor, bounded: Callable[[], Tensor]) -> Tensor:
        """The chosen objective, in the loss's dtype."""
        divergence = self.posterior.kl()
        value = self._value(step, loss, bounded, divergence)
        self._facts = {"kl": divergence.detach(), "objective": value.detach()}
        return value.to(loss.dtype)

    def _value(
        self, step: Step, loss: Tensor, bounded: Callable[[], Tensor], divergence: Tensor
    ) -> Tensor:
        n = self.num_examples
        if self.kind == "elbo":
            return loss + self.beta * divergence / n
        if self.kind == "pac_tuning":
            if self._second_stage(step):
                return loss + 0 * divergence  # which keeps rho in the graph, as DDP asks for
            cost = divergence + math.log(1 / self.delta)
            gamma = (cost.detach() / n).sqrt() / self.moment if self.gamma is None else self.gamma
            return loss + cost / (gamma * n) + gamma * self.moment**2
        r, c = bounded(), bounds.complexity(divergence, n, self.delta)
        if self.logit is not None:
            return bounds.lambda_bound(r, c, 2 * torch.sigmoid(self.logit))
        bound = BOUNDED[self.kind]
        assert bound is not None
        return bound(r, c)

    def _second_stage(self, step: Step) -> bool:
        return self.kind == "pac_tuning" and step.progress >= self.first_stage

    @property
    def mean_rate(self) -> float:
        """Factor on the optimizer's learning rates of the means."""
        return self._mean_rate

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give rho, and l's logit where there is one."""
        own = [*self.posterior.rho.values(), *([] if self.logit is None else [self.logit])]
        return [{"params": own, "lr": self.lr, "weight_decay": 0.0, "name": "sigma"}]

    def frozen(self, step: Step) -> Iterable[nn.Parameter]:
        """Give rho in pac_tuning's second stage."""
        return self.posterior.rho.values() if self._second_stage(step) else ()

    def facts(self) -> dict[str, Tensor]:
        """KL in nats, the objective, and each group's mean sigma."""
        sigmas = {
            f"sigma_{g}": self.posterior.sigma(g).detach().mean() for g in self.posterior.members
        }
        return {**self._facts, **sigmas}
