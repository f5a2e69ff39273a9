"""The duties of a regularizer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager

from torch import Tensor, nn


class Regularizer(nn.Module, ABC):
    """Changes how a step sees the trained parameters, and what it minimises.

    Its own parameters train beside the model's; its state travels with the checkpoint.
    """

    @abstractmethod
    def prepare(self, parameters: Mapping[str, Mapping[str, nn.Parameter]], num_examples: int) -> None:
        """Learn what trains, before the optimizer is made.

        Args:
            parameters: Group ("adapter", "head") to name to parameter, at their start values.
            num_examples: n, the number of training examples.
        """

    @abstractmethod
    def perturbed(self) -> AbstractContextManager[None]:
        """Around a training step's forward pass: the trained parameters as the step shall see them."""

    @abstractmethod
    def objective(self, loss: Tensor) -> Tensor:
        """What the step minimises, from the task's mean loss over the batch (a scalar)."""
