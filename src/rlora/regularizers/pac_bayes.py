"""Training under a PAC-Bayes objective.

Sources: Dziugaite and Roy, UAI 2017; Perez-Ortiz et al., JMLR 2021; Liu et al., EMNLP 2023.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rlora.regularizers import bounds
from rlora.regularizers.base import PriorFacts, Regularizer, Step
from rlora.regularizers.noise import check_per_example, sample_per_example, sample_per_step
from rlora.regularizers.posterior import GaussianPosterior

BOUNDED = {
    "mcallester": bounds.mcallester,
    "quadratic": bounds.quadratic,
    "lambda": None,  # has another parameter, see `_value`
    "kl": bounds.klinv,
}
UNBOUNDED = ("elbo", "pac_tuning")  # accept any loss
OBJECTIVES = (*BOUNDED, *UNBOUNDED)
NOISES = ("per_step", "per_example", "none")
LEARNED_PRIOR_MEAN_RATE = 0.02


class PACBayes(Regularizer):
    """Trains a diagonal Gaussian posterior over all trainable parameters by a bound or an ELBO.

    With c = (KL + ln(2 sqrt(n) / delta)) / n, r the bounded loss and L the task loss:

        mcallester  r + sqrt(c / 2)
        quadratic   (sqrt(r + c / 2) + sqrt(c / 2))^2
        lambda      r / (1 - l / 2) + c / (l (1 - l / 2)), l trained in (0, 2)
        kl          the largest p with kl(r || p) <= c
        elbo        L + beta KL / n
        pac_tuning  L + (KL + ln(1 / delta)) / (gamma n) + gamma K^2 in the first stage; then L
                    alone, under the noise learned so far (Liu et al., EMNLP 2023)

    A step evaluates the model at mu + sigma eps. The gradients of mu and rho = ln sigma flow
    through this sample and are exact. Under gradient accumulation each micro-batch has its own
    sample, and a step minimizes the mean of the micro-batches' objectives. All ranks share the
    noise of a step, so that their averaged gradient is that of one sample.

    Args:
        objective: One of the six above.
        noise: "per_step" (one sample), "per_example" (one sample each; needs an adapter that
            multiplies activations and a linear head) or "none" (the means; KL alone acts on sigma).
        prior: "start" (the start values, independent of the data), "split" (learned on a part of
            the training set that the posterior does not use), or the folder of a run that learned
            it that way.
        sigma_adapter: sigma0 of the adapter's parameters, where sigma starts.
        sigma_head: sigma0 of the head's parameters.
        lr: Learning rate of rho (and l), typically 10 to 100 times that of the means.
        mean_rate: Factor above 0 on the optimizer's learning rates of the means. None: 1, or 0.02
            with a learned prior, so that the means stay close to it.
        delta: Probability with which the bound may fail, in (0, 1).
        beta: Weight of KL in elbo, above 0; below 1 it tempers.
        gamma: gamma of pac_tuning, above 0. None: the minimizer of its two terms,
            sqrt((KL + ln(1 / delta)) / n) / K.
        moment: K of pac_tuning, above 0.
        first_stage: Fraction of the steps in pac_tuning's first stage, in (0, 1).

    Raises:
        ValueError: an option is out of range.
    """

    is_posterior = True

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
        _check_choice("objective", objective, OBJECTIVES)
        _check_choice("noise", noise, NOISES)
        bounds.check_delta(delta, "regularizer.delta")
        numbers = {"lr": lr, "mean_rate": mean_rate, "beta": beta, "gamma": gamma, "moment": moment}
        for key, value in numbers.items():
            if value is None and key in ("mean_rate", "gamma"):
                continue
            if value is None or not (math.isfinite(value) and value > 0):
                raise ValueError(
                    f"regularizer.{key}={value} is invalid: expected a finite number above 0"
                )
        if not 0 < first_stage < 1:
            raise ValueError(
                f"regularizer.first_stage={first_stage} is invalid: expected a fraction strictly "
                "between 0 and 1"
            )
        self.objective_name, self.noise = objective, noise
        self.lr, self.delta = lr, delta
        if mean_rate is None:
            mean_rate = 1.0 if prior == "start" else LEARNED_PRIOR_MEAN_RATE
        self._mean_rate = mean_rate
        self.beta, self.gamma = beta, gamma
        self.moment, self.first_stage = moment, first_stage
        self.sigma0 = {"adapter": sigma_adapter, "head": sigma_head}
        self.needs_bounded_loss = objective in BOUNDED
        # l = 2 sigmoid(logit) stays in (0, 2) without a constraint on the optimizer
        self.logit = nn.Parameter(torch.zeros(())) if objective == "lambda" else None
        self._metrics: dict[str, Tensor] = {}

    def prepare(
        self,
        model: nn.Module,
        parameters: Mapping[str, Mapping[str, nn.Parameter]],
        num_examples: int,
    ) -> None:
        """Create the posterior at the parameters' current values, which are the prior mean.

        Raises:
            ValueError: n is below 1, there are no trainable parameters, or the noise does not fit
                the adapter or the head.
        """
        self.num_examples = bounds.check_count(num_examples, "the number of training examples")
        if not any(parameters.values()):
            raise ValueError(
                "regularizer=pac_bayes is invalid: expected trainable parameters, and this model "
                "has none; set regularizer=none"
            )
        self.posterior = GaussianPosterior(model, parameters, self.sigma0)
        if self.noise == "per_example":
            check_per_example(self.posterior)

    def recenter(self, prior_facts: PriorFacts) -> None:
        """Make the current means the prior mean and reset sigma to sigma0."""
        super().recenter(prior_facts)
        self.posterior.recenter()

    def perturbed(self, step: Step) -> AbstractContextManager[None]:
        """Return a context in which the model sees a sample: one for the step or per example."""
        if self.noise == "none":
            return nullcontext()
        if self.noise == "per_example":
            # ranks hold different examples, so their samples must differ
            seed = (step.seed + step.rank) % 2**62
            return sample_per_example(self.posterior, seed, step.examples)
        # the seed excludes the rank: averaged gradients are those of one sample over the full batch
        return sample_per_step(self.posterior, step.seed)

    def objective(self, step: Step, loss: Tensor, bounded: Callable[[], Tensor]) -> Tensor:
        """Return the chosen objective in the dtype of the loss."""
        divergence = self.posterior.kl()
        value = self._value(step, loss, bounded, divergence)
        # detached: a logged value must not keep the step's graph alive
        self._metrics = {"kl": divergence.detach(), "objective": value.detach()}
        return value.to(loss.dtype)

    def _value(
        self, step: Step, loss: Tensor, bounded: Callable[[], Tensor], divergence: Tensor
    ) -> Tensor:
        n = self.num_examples
        if self.objective_name == "elbo":
            return loss + self.beta * divergence / n
        if self.objective_name == "pac_tuning":
            if self._in_second_stage(step):
                # keeps rho in the graph: DDP fails on parameters without a gradient
                return loss + 0 * divergence
            cost = divergence + math.log(1 / self.delta)
            # detached: gamma is at its minimum, where the derivative through it is 0
            gamma = (cost.detach() / n).sqrt() / self.moment if self.gamma is None else self.gamma
            return loss + cost / (gamma * n) + gamma * self.moment**2
        r = bounded()
        c = bounds.complexity(divergence, n, self.delta)
        if self.logit is not None:
            return bounds.lambda_bound(r, c, 2 * torch.sigmoid(self.logit))
        bound = BOUNDED[self.objective_name]
        assert bound is not None
        return bound(r, c)

    def _in_second_stage(self, step: Step) -> bool:
        return self.objective_name == "pac_tuning" and step.progress >= self.first_stage

    @property
    def mean_rate(self) -> float:
        """Factor on the optimizer's learning rates of the means."""
        return self._mean_rate

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return one group with rho, and the logit of l if there is one."""
        parameters = [*self.posterior.rho.values(), *([] if self.logit is None else [self.logit])]
        # no weight decay: it would pull ln sigma to 0, that is sigma to 1
        return [{"params": parameters, "lr": self.lr, "weight_decay": 0.0, "name": "sigma"}]

    def frozen(self, step: Step) -> Iterable[nn.Parameter]:
        """Return rho in pac_tuning's second stage, else nothing."""
        return self.posterior.rho.values() if self._in_second_stage(step) else ()

    def metrics(self) -> dict[str, Tensor]:
        """Return KL in nats, the objective, and the mean sigma of each group."""
        sigmas = {
            f"sigma_{group}": self.posterior.sigma(group).detach().mean()
            for group in self.posterior.members
        }
        return {**self._metrics, **sigmas}


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"regularizer.{key}={value} is invalid: expected one of {', '.join(choices)}"
        )
