"""The duties of a regularizer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Step:
    """What a regularizer may know of a training step.

    Attributes:
        seed: Of the step's noise: a function of the run's seed, the epoch and the batch, the same on all ranks.
        rank: Of this process.
        progress: Share of the run's optimizer steps that are done, in [0, 1].
        examples: Rows of the batch on this rank.
    """

    seed: int
    rank: int = 0
    progress: float = 0.0
    examples: int = 1


class Regularizer(nn.Module, ABC):
    """Changes how a step sees the trained parameters, and what it minimizes.

    Its own parameters train beside the model's; its state travels with the checkpoint.
    """

    needs_bounded_loss = False  # whether `objective` calls `bounded`

    @abstractmethod
    def prepare(
        self,
        model: nn.Module,
        parameters: Mapping[str, Mapping[str, nn.Parameter]],
        num_examples: int,
    ) -> None:
        """Learn what trains, before the optimizer is made.

        Args:
            model: The module the parameters live in.
            parameters: Group ("adapter", "head") to name to parameter, at their start values.
            num_examples: n, the number of training examples.
        """

    @abstractmethod
    def perturbed(self, step: Step) -> AbstractContextManager[None]:
        """Around a training step's forward and backward: the trained parameters as the step shall see them."""

    @abstractmethod
    def objective(self, step: Step, loss: Tensor, bounded: Callable[[], Tensor]) -> Tensor:
        """What the step minimizes, a scalar.

        Args:
            step: The step.
            loss: The task's mean loss over the batch (a scalar).
            bounded: Gives the mean over the batch of the task's loss in [0, 1] (a scalar).
        """

    def recenter(self) -> None:
        """Take the parameters' present values as the start, in the place of those that `prepare` saw."""

    @property
    def mean_rate(self) -> float:
        """Factor on the optimizer's learning rates of the model's own parameters."""
        return 1.0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Its own trained parameters as optimizer groups, each with its learning rate."""
        return []

    def frozen(self, step: Step) -> Iterable[nn.Parameter]:
        """Those of its own parameters that this step must not move."""
        return ()

    def facts(self) -> dict[str, Tensor]:
        """Scalars worth a log, of the last step and on its device."""
        return {}
