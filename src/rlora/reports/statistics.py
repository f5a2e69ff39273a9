"""Means and paired differences over repeated runs, with Student's intervals."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean over n runs.

    Attributes:
        n: Number of runs.
        mean: Their mean.
        sd: Sample standard deviation (n - 1); nan for a single run.
        low: Lower end of Student's interval, mean - t sd / sqrt(n); nan for a single run.
        high: Upper end.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean, standard deviation and Student's interval of independent values.

    Raises:
        ValueError: no value.
    """
    n = len(values)
    if n == 0:
        raise ValueError("a mean needs at least one run")
    mean = statistics.fmean(values)
    if n == 1:
        return Estimate(1, mean, math.nan, math.nan, math.nan)
    sd = statistics.stdev(values)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return Estimate(n, mean, sd, mean - half, mean + half)


def paired(first: dict[object, float], second: dict[object, float], confidence: float = 0.95) -> Estimate | None:
    """Second minus first over the keys that both have; None where they share none."""
    shared = [second[key] - first[key] for key in first if key in second]
    return estimate(shared, confidence) if shared else None
