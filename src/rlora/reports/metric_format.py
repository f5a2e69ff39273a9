"""The scale of a metric in tables and figures, and which of two scores is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricFormat:
    """The format of a metric in tables and figures.

    Attributes:
        factor: Factor that scales a score for display; 100 shows percent.
        digits: Digits after the decimal point.
        larger_is_better: Whether the larger of two scores is the better one.
    """

    factor: float = 100.0
    digits: int = 1
    larger_is_better: bool = True

    @property
    def percent(self) -> bool:
        """Return whether scores are shown in percent."""
        return self.factor == 100.0

    def text(self, value: float, *, signed: bool = False) -> str:
        """Return a score as text; `signed` adds the sign that a difference of scores needs."""
        return f"{self.factor * value:{'+' if signed else ''}.{self.digits}f}"


PERCENT = MetricFormat()
OTHER_SCALES = {
    "NIST": MetricFormat(1, 2),
    "CIDEr": MetricFormat(1, 2),
    "perplexity": MetricFormat(1, 2, larger_is_better=False),
    "loss": MetricFormat(1, 3, larger_is_better=False),
}


def metric_format(metric: str) -> MetricFormat:
    """Return the format of a metric, named with or without its split; percent by default."""
    return OTHER_SCALES.get(metric.rpartition("/")[2], PERCENT)


def metric_unit(metric: str) -> str:
    """Return the unit of a metric on an axis: "%", or the name of the metric."""
    return "%" if metric_format(metric).percent else metric
