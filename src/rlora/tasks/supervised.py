"""Classification and regression on any inputs: head, losses, decoding and metrics."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, MetricCollection

from rlora.data.batch import Batch
from rlora.metrics.exact import exact
from rlora.tasks.base import Task
from rlora.tasks.setting_checks import (
    check_metrics,
    check_monitor,
    check_score_range,
    checked_labels,
)

LOG_FLOOR = math.log(1e-5)  # smallest log-probability in the bounded loss


@dataclass(kw_only=True, eq=False)
class SupervisedTask(Task):
    """One label per example, or one score where `labels` is None.

    Attributes:
        name: Task name.
        metrics: Metrics by name, updated with the predictions of `decode` and the labels.
        monitor: Metric that selects checkpoints.
        mode: `max` or `min`.
        labels: Label names in id order; None for regression.
        score_range: Smallest and largest score of a regression task.

    Raises:
        ValueError: A setting is unknown, or a metric does not fit the labels.
    """

    name: str
    metrics: Mapping[str, Metric]
    monitor: str
    mode: str = "max"
    labels: Sequence[str] | None = None
    score_range: Sequence[float] | None = None

    def __post_init__(self) -> None:
        self.labels = checked_labels(self.labels)
        check_score_range(self.score_range)
        check_metrics(self.metrics, self.labels, self.score_range)
        self.metrics = {name: exact(metric) for name, metric in self.metrics.items()}
        check_monitor(self.name, self.metrics, self.monitor, self.mode)

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 for regression."""
        return 1 if self.labels is None else len(self.labels)

    def head(self) -> dict[str, Any]:
        """Return the kind of the head, its number of outputs and their names."""
        return {
            "kind": "regression" if self.labels is None else "classification",
            "num_labels": self.num_labels,
            "labels": self.labels,
        }

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean cross entropy, or for regression the mean squared error, in float32.

        Args:
            outputs: Has `logits` (B, num_labels).
            batch: Has `labels` (B,).

        Raises:
            ValueError: The logits have another width, or a label is out of range.
        """
        logits, labels = outputs.logits.float(), batch["labels"]
        if logits.shape[-1] != self.num_labels:
            raise ValueError(
                f"The model returns {logits.shape[-1]} logits but task {self.name} has "
                f"{self.num_labels} labels; build the model with the head of the task."
            )
        if self.labels is None:
            return functional.mse_loss(logits.squeeze(-1), labels.float())
        # On an accelerator this check would synchronize every step; `setup` has checked the labels.
        if labels.device.type == "cpu" and bool(((labels < 0) | (labels >= self.num_labels)).any()):
            raise ValueError(
                f"A label of the batch is outside 0..{self.num_labels - 1}; "
                "correct task.labels or the data."
            )
        return functional.cross_entropy(logits, labels)

    @property
    def has_bounded_loss(self) -> bool:  # type: ignore[override]
        """Whether the task is classification."""
        return self.labels is not None

    def bounded_loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean of -ln max(p_y, p) / ln(1 / p) at p = 1e-5.

        Source: Perez-Ortiz et al., JMLR 2021, section 5.
        """
        if not self.has_bounded_loss:
            return super().bounded_loss(outputs, batch)
        log_probabilities = outputs.logits.float().log_softmax(-1)
        chosen = log_probabilities.gather(-1, batch["labels"][:, None])[:, 0]
        return (chosen.clamp_min(LOG_FLOOR) / LOG_FLOOR).mean()

    def decode(self, outputs: Any) -> Tensor:
        """Return the most probable class (B,) int64, or the score (B,) float32."""
        logits = outputs.logits
        return logits.squeeze(-1).float() if self.labels is None else logits.argmax(dim=-1)

    def new_metrics(self) -> MetricCollection:
        """Return new copies of the task's metrics."""
        return MetricCollection({name: metric.clone() for name, metric in self.metrics.items()})
