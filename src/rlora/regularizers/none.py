"""No regularizer: the task's loss as it is."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from rlora.regularizers.base import Regularizer, Step


class NoRegularizer(Regularizer):
    """Leave parameters and loss alone."""

    def prepare(
        self,
        model: nn.Module,
        parameters: Mapping[str, Mapping[str, nn.Parameter]],
        num_examples: int,
    ) -> None:
        """Nothing to prepare."""

    def perturbed(self, step: Step) -> AbstractContextManager[None]:
        """The parameters themselves."""
        return nullcontext()

    def objective(self, step: Step, loss: Tensor, bounded: Callable[[], Tensor]) -> Tensor:
        """The loss itself."""
        return loss
