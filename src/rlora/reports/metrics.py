"""How scores are shown, and which of two is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """How a metric is shown in tables and figures.

    Attributes:
        factor: By which it is multiplied.
        digits: After the point.
        larger_is_better: How two scores compare.
    """

    factor: float = 100.0
    digits: int = 1
    larger_is_better: bool = True

    @property
    def percent(self) -> bool:
        """Whether it is shown in percent."""
        return self.factor == 100.0

    def text(self, value: float, *, signed: bool = False) -> str:
        """A score, or with its sign a difference of two."""
        return f"{self.factor * value:{'+' if signed else ''}.{self.digits}f}"


PERCENT = Shown()
OTHERS = {
    "NIST": Shown(1, 2),
    "CIDEr": Shown(1, 2),
    "perplexity": Shown(1, 2, larger_is_better=False),
    "loss": Shown(1, 3, larger_is_better=False),
}


def shown(metric: str) -> Shown:
    """How a metric, with its split or without, is shown: in percent, but for those of another scale."""
    return OTHERS.get(metric.rpartition("/")[2], PERCENT)
