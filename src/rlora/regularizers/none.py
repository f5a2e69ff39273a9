"""No regularizer: the task's loss as it is."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from rlora.regularizers.base import Regularizer


class NoRegularizer(Regularizer):
    """Leave parameters and loss alone."""

    def prepare(self, parameters: Mapping[str, Mapping[str, nn.Parameter]], num_examples: int) -> None:
        """Nothing to prepare."""

    def perturbed(self) -> AbstractContextManager[None]:
        """The parameters themselves."""
        return nullcontext()

    def objective(self, loss: Tensor) -> Tensor:
        """The loss itself."""
        return loss
