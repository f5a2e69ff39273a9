"""No regularizer: the step minimizes the task loss."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from rlora.regularizers.base import Regularizer, Step


class NoRegularizer(Regularizer):
    """Leaves parameters and loss unchanged."""

    def prepare(
        self,
        model: nn.Module,
        parameters: Mapping[str, Mapping[str, nn.Parameter]],
        num_examples: int,
    ) -> None:
        """Do nothing: there is no state."""

    def perturbed(self, step: Step) -> AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return nullcontext()

    def objective(self, step: Step, loss: Tensor, bounded: Callable[[], Tensor]) -> Tensor:
        """Return the loss."""
        return loss
