"""Means over targets: of a loss over batches and processes, and of gradients over micro-batches.

A target is what the loss of a task averages over: an example, or a token of a text. Batches hold
different numbers of targets, so that the mean of their means is not the mean over all targets.
"""

from collections.abc import Iterable

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import Metric


class TargetMean(Metric):
    """Mean of a loss over all targets of all batches on all processes.

    `torchmetrics.MeanMetric` reads the values from the device to look for nan; this one does not.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, mean: Tensor, targets: int) -> None:
        """Add the mean loss of a batch with this number of targets."""
        self.total = self.total + mean * targets
        self.count = self.count + targets
        # what Lightning logs for the step
        self._forward_cache = mean  # type: ignore[assignment]

    def compute(self) -> Tensor:
        """Return the mean, a float32 scalar; nan without batches."""
        return self.total / self.count


class GradientWindow:
    """Weights of micro-batches that make an optimizer step equal the step on one big batch.

    Lightning divides each micro-batch's loss by `accumulate_grad_batches`, and DDP averages the
    gradients over the processes. With m_i the mean loss of micro-batch i and t_i its targets, the
    big batch has the loss sum_i t_i m_i / sum_i t_i, over the micro-batches of all processes. The
    window therefore weights m_i by t_i / c, where c is one number for all processes, and corrects
    the sum of the gradients before the optimizer step.

    One process without accumulation needs neither. Equal micro-batches get the weight 1 and the
    correction 1, both exactly.
    """

    def __init__(self) -> None:
        self._unit: float | Tensor | None = None  # c: targets of the first micro-batches, averaged
        self._total: float | Tensor = 0.0

    def weighted(self, loss: Tensor, targets: int, batch_idx: int, trainer: L.Trainer) -> Tensor:
        """Return the loss of a micro-batch times its weight.

        Args:
            loss: Mean loss over the targets, a scalar.
            targets: Number of targets.
            batch_idx: Position of the micro-batch in the epoch.
            trainer: Gives the number of micro-batches of a step, and the processes.
        """
        steps = trainer.accumulate_grad_batches
        if steps == 1 and trainer.world_size == 1:
            return loss
        # a run resumed within a window starts it there, because no gradient was saved
        if self._unit is None or batch_idx % steps == 0:
            self._unit, self._total = _mean_over_ranks(targets, trainer), 0.0
        weight = targets / self._unit
        self._total = self._total + weight
        # no multiplication by 1 where the host knows the weight
        return loss if isinstance(weight, float) and weight == 1 else loss * weight

    @torch.no_grad()
    def correct(self, optimizer: torch.optim.Optimizer, trainer: L.Trainer) -> None:
        """Turn the accumulated gradients into those of the big batch; call it before clipping."""
        steps = trainer.accumulate_grad_batches
        if steps == 1:
            return  # the weights of the processes average to 1 by the choice of c
        factor = steps / _mean_over_ranks(self._total, trainer)
        self._unit = None
        gradients = [parameter.grad for parameter in _parameters(optimizer)]
        present = [gradient for gradient in gradients if gradient is not None]
        if present and not (isinstance(factor, float) and factor == 1):
            torch._foreach_mul_(present, factor)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _mean_over_ranks(value: float | Tensor, trainer: L.Trainer) -> float | Tensor:
    """Return the mean over processes, which stays on the device; a float for one process."""
    if trainer.world_size == 1:
        return float(value)
    tensor = torch.as_tensor(value, dtype=torch.float32, device=trainer.strategy.root_device)
    mean: Tensor = trainer.strategy.reduce(tensor.clone(), reduce_op="mean")
    return mean
