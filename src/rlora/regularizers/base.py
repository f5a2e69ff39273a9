"""The protocol of a regularizer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Required, TypedDict

from torch import Tensor, nn

from rlora.regularizers.posterior import GaussianPosterior


class PriorFacts(TypedDict, total=False):
    """How a prior was made. A certificate needs to know which examples it depends on.

    Attributes:
        kind: "start" (the start values, independent of the data) or "learned" (by another run).
        part: `task.part` of the run that learned it.
        parts: Digest of every part of the training set in that run, by name.
        scores: Scores of that run.
    """

    kind: Required[Literal["start", "learned"]]
    part: str | None
    parts: dict[str, str] | None
    scores: dict[str, float]


@dataclass(frozen=True)
class Step:
    """What a regularizer may know about a training step.

    Attributes:
        seed: Seed of the step's noise: a function of run seed, epoch and batch, equal on all ranks.
        rank: Rank of this process.
        progress: Fraction of the run's optimizer steps already taken, in [0, 1].
        examples: Number of examples in the batch on this rank.
    """

    seed: int
    rank: int = 0
    progress: float = 0.0
    examples: int = 1


class Regularizer(nn.Module, ABC):
    """Changes how a step sees the trainable parameters, and what the step minimizes.

    Required: `prepare`, `perturbed`, `objective`. All other methods are optional.
    Its parameters train together with the model's, and its state is part of every checkpoint.

    A regularizer that learns a distribution over the trainable parameters sets `is_posterior`.
    It then sets `posterior` in `prepare` and implements `recenter`. Such a run can be certified,
    its adapter folder holds the regularizer's state, and predictions can sample from it.

    Attributes:
        is_posterior: Whether it learns a distribution over the trainable parameters.
        needs_bounded_loss: Whether `objective` calls `bounded`.
        posterior: The distribution and its prior. Set only if `is_posterior`.
        prior_facts: How the prior was made. Meaningful only if `is_posterior`.
    """

    is_posterior: bool = False
    needs_bounded_loss: bool = False
    posterior: GaussianPosterior
    prior_facts: PriorFacts

    def __init__(self) -> None:
        super().__init__()
        self.prior_facts = {"kind": "start"}

    @abstractmethod
    def prepare(
        self,
        model: nn.Module,
        parameters: Mapping[str, Mapping[str, nn.Parameter]],
        num_examples: int,
    ) -> None:
        """Create the regularizer's own parameters. Called once, before the optimizer is built.

        Args:
            model: The module that holds the parameters.
            parameters: Trainable parameters at their start values: group ("adapter", "head") to
                name to parameter.
            num_examples: n, the number of training examples.
        """

    @abstractmethod
    def perturbed(self, step: Step) -> AbstractContextManager[None]:
        """Return a context in which the model sees the parameters as the step requires.

        It spans the forward and backward pass of a training step and restores the parameters.
        """

    @abstractmethod
    def objective(self, step: Step, loss: Tensor, bounded: Callable[[], Tensor]) -> Tensor:
        """Return the scalar that the step minimizes.

        Args:
            step: The step.
            loss: Mean task loss over the batch, a scalar. Under gradient accumulation the batch is
                a micro-batch, and the objectives of a step are averaged by their numbers of
                targets: a penalty enters the step once.
            bounded: Returns the mean over the batch of the task loss in [0, 1], a scalar. Call it
                only if `needs_bounded_loss`.
        """

    def recenter(self, prior_facts: PriorFacts) -> None:
        """Make the current parameter values the mean of the prior, as after loading a learned one.

        Args:
            prior_facts: How these values were made.
        """
        self.prior_facts = prior_facts

    @property
    def mean_rate(self) -> float:
        """Factor on the optimizer's learning rates of the model's parameters."""
        return 1.0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the regularizer's own parameters as optimizer groups, each with its `lr`."""
        return []

    def frozen(self, step: Step) -> Iterable[nn.Parameter]:
        """Return the parameters of the regularizer that this step must not update."""
        return ()

    def metrics(self) -> dict[str, Tensor]:
        """Return scalars of the last step to log, on the device they were computed on."""
        return {}
