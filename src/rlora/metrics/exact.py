"""Metrics of predictions that are right at the edges, where torchmetrics' are not.

torchmetrics gives constant predictions a Matthews correlation of up to 0.45 in absolute value, and
correlates the rounding noise of constant scores. Such values would take part in the choice of an
epoch. These classes count in integers or compute in float64, and give 0 or NaN as documented.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.classification import BinaryMatthewsCorrCoef, MulticlassMatthewsCorrCoef
from torchmetrics.regression import PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.utilities.data import dim_zero_cat

ROUNDING = 4  # units in the last place within which scores of one value may differ


class Matthews(Metric):
    """Matthews correlation of class ids, from an exact confusion matrix.

        R = (c s - sum_k t_k p_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))

    s is the number of rows, c of the right ones, t_k of those of class k, p_k of those predicted as
    k. It is 0 where all predictions or all labels are one class, as in scikit-learn.

    Source: Gorodkin, "Comparing two K-category assignments by a K-category correlation
    coefficient", 2004.

    Args:
        num_classes: Number of classes K.
        ignore_index: Label of the rows that do not count; None: all rows count.
    """

    higher_is_better = True
    full_state_update = False
    undefined = "there are no rows"
    confusion: Tensor

    def __init__(self, num_classes: int = 2, ignore_index: int | None = None) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", zeros, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count class ids (N,) and labels (N,).

        Raises:
            ValueError: they are not integers, or not in 0 .. num_classes - 1.
        """
        if preds.is_floating_point() or target.is_floating_point():
            raise ValueError("the Matthews correlation takes class ids, not scores")
        preds, target = preds.flatten(), target.flatten()
        if self.ignore_index is not None:
            kept = target != self.ignore_index
            preds, target = preds[kept], target[kept]
        for ids in (preds, target):
            if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_classes:
                raise ValueError(f"a class id is outside 0..{self.num_classes - 1}")
        cells = torch.bincount(target * self.num_classes + preds, minlength=self.num_classes**2)
        self.confusion += cells.view(self.num_classes, self.num_classes)

    def compute(self) -> Tensor:
        """Return R, float64."""
        counts = self.confusion.tolist()  # Python integers, which do not overflow
        labels = [sum(row) for row in counts]
        predicted = [sum(column) for column in zip(*counts, strict=True)]
        rows, right = sum(labels), sum(counts[k][k] for k in range(self.num_classes))
        joint = right * rows - sum(t * p for t, p in zip(labels, predicted, strict=True))
        spread = (rows**2 - sum(p * p for p in predicted)) * (rows**2 - sum(t * t for t in labels))
        value = math.nan if rows == 0 else joint / math.sqrt(spread) if spread else 0.0
        if rows:
            value = max(-1.0, min(1.0, value))
        return torch.tensor(value, dtype=torch.float64, device=self.device)


class _Correlation(Metric):
    """A correlation of scores, computed in float64 from all rows."""

    higher_is_better = True
    full_state_update = False
    undefined = "the predictions or the labels are constant or not finite"
    preds: list[Tensor] | Tensor
    target: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add scores (N,) and labels (N,).

        Raises:
            ValueError: they are class ids.
        """
        if not (preds.is_floating_point() and target.is_floating_point()):
            raise ValueError("a correlation takes scores, not class ids")
        assert isinstance(self.preds, list)
        assert isinstance(self.target, list)
        self.preds.append(_at_least_float32(preds))
        self.target.append(_at_least_float32(target))

    def compute(self) -> Tensor:
        """Return the correlation, float64; NaN where it is undefined."""
        # several processes leave one tensor, one process a list of batches
        states = [self.preds, self.target] if len(self.preds) else []
        columns = [dim_zero_cat(state) for state in states]
        value = math.nan
        if columns and not any(map(_is_constant, columns)):
            value = _pearson(*(self.transform(c.double().cpu().numpy()) for c in columns))
        return torch.tensor(value, dtype=torch.float64, device=self.device)

    def transform(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what is correlated."""
        return values


class Pearson(_Correlation):
    """Pearson's correlation; NaN where predictions or labels are constant or not finite.

    Predictions that differ by their rounding alone count as constant: a model that predicts one
    value rounds it differently in batches of different shapes.
    """


class Spearman(_Correlation):
    """Spearman's correlation: Pearson's of the ranks, tied rows sharing their mean rank.

    NaN in the same cases as `Pearson`.
    """

    def transform(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the ranks."""
        from scipy.stats import rankdata

        ranks: NDArray[np.float64] = rankdata(values)
        return ranks


class Perplexity(Metric):
    """Perplexity per token, exp(mean -ln p_y), summed in float64; inf above exp(709).

    Args:
        ignore_index: Label of the positions that do not count.
    """

    higher_is_better = False
    full_state_update = False
    undefined = "there are no tokens, or a logit is not finite"
    total: Tensor
    count: Tensor

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add logits (B, T, V) and the next token at each position (B, T)."""
        labels = target.flatten()
        # from the logits: the softmax of an improbable token is 0, and its logarithm infinite
        losses = functional.cross_entropy(
            preds.flatten(0, -2).float(), labels, ignore_index=self.ignore_index, reduction="none"
        )
        self.total += losses.sum(dtype=torch.float64)
        self.count += (labels != self.ignore_index).sum()

    def compute(self) -> Tensor:
        """Return the perplexity, float64."""
        mean: Tensor = self.total / self.count
        return mean.exp()


def exact(metric: Any) -> Any:
    """Return the class of this module that computes a metric of torchmetrics, or the metric.

    The configs name torchmetrics' classes, as those of earlier runs do.
    """
    if isinstance(metric, BinaryMatthewsCorrCoef):
        return Matthews(2, metric.ignore_index)
    if isinstance(metric, MulticlassMatthewsCorrCoef):
        return Matthews(metric.num_classes, metric.ignore_index)
    if isinstance(metric, PearsonCorrCoef) and metric.num_outputs == 1:
        return Pearson()
    if isinstance(metric, SpearmanCorrCoef) and metric.num_outputs == 1:
        return Spearman()
    return metric


def _at_least_float32(values: Tensor) -> Tensor:
    values = values.detach().flatten()
    return values if values.dtype == torch.float64 else values.float()


def _is_constant(values: Tensor) -> bool:
    """Return whether the values are equal up to their rounding, too few, or not finite."""
    if len(values) < 2 or not bool(values.isfinite().all()):
        return True
    low, high = values.min().double(), values.max().double()
    largest = torch.maximum(low.abs(), high.abs())
    return bool(high - low <= ROUNDING * torch.finfo(values.dtype).eps * largest)


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    units = []
    for values in (x, y):
        centered = values - values.mean()
        centered = centered / np.abs(centered).max()  # squares neither overflow nor vanish
        units.append(centered / np.linalg.norm(centered))
    return float(np.clip(units[0] @ units[1], -1.0, 1.0))
