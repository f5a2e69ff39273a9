"""Means over repeated runs, paired differences with their tests, and mean ranks."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

INTERVALS = ("t", "bootstrap")
RESAMPLES = 10_000
# Scores are computed in float32: values that differ by less, relative to the scores, are equal.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Estimate:
    """The mean of n values, with its spread.

    Attributes:
        n: Number of values.
        mean: Their mean.
        sd: Sample standard deviation, with n - 1 degrees of freedom; nan for a single value, and
            exactly 0 for values that are equal up to rounding.
        low: Lower end of the confidence interval; nan without spread.
        high: Upper end of the confidence interval; nan without spread.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float

    @property
    def has_spread(self) -> bool:
        """Return whether the values differ, so that an interval and a test exist."""
        return self.n > 1 and self.sd > 0


def estimate(
    values: Sequence[float],
    confidence: float = 0.95,
    interval: str = "t",
    magnitude: float | None = None,
) -> Estimate:
    """Return mean, standard deviation and confidence interval of independent values.

    Values that are equal up to rounding have no interval: one of width zero would claim certainty.

    Args:
        values: One value per run.
        confidence: Confidence level of the interval.
        interval: "t" is Student's interval, mean +- t sd / sqrt(n). "bootstrap" is BCa (Efron 1987)
            with 10,000 resamples; it needs about ten values, and below three it falls back to "t".
        magnitude: Largest absolute score behind the values, which `ROUNDING` is relative to; None:
            that of the values.

    Raises:
        ValueError: There is no value.
    """
    n = len(values)
    if n == 0:
        raise ValueError("a mean needs at least one run")
    mean = statistics.fmean(values)
    if n == 1:
        return Estimate(1, mean, math.nan, math.nan, math.nan)
    if magnitude is None:
        magnitude = max(map(abs, values))
    if max(values) - min(values) <= ROUNDING * magnitude:
        return Estimate(n, mean, 0.0, math.nan, math.nan)
    sd = statistics.stdev(values)
    if interval == "bootstrap" and n > 2:
        ends = stats.bootstrap(
            (np.asarray(values),),
            np.mean,
            confidence_level=confidence,
            n_resamples=RESAMPLES,
            rng=0,
        ).confidence_interval
        return Estimate(n, mean, sd, float(ends.low), float(ends.high))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return Estimate(n, mean, sd, mean - half, mean + half)


def paired(
    first: Mapping[Any, float],
    second: Mapping[Any, float],
    confidence: float = 0.95,
    interval: str = "t",
) -> Estimate | None:
    """Return the mean of second minus first over their common keys; None without common keys."""
    shared = [key for key in first if key in second]
    if not shared:
        return None
    magnitude = max(abs(scores[key]) for scores in (first, second) for key in shared)
    values = [second[key] - first[key] for key in shared]
    return estimate(values, confidence, interval, magnitude)


def p_value(difference: Estimate) -> float:
    """Return the p value of Student's two-sided test that a mean difference is zero.

    It is nan for fewer than two pairs, and for differences that are equal up to rounding: their
    variance says nothing about other seeds.
    """
    if not difference.has_spread:
        return math.nan
    t = abs(difference.mean) * math.sqrt(difference.n) / difference.sd
    return float(2 * stats.t.sf(t, difference.n - 1))


def holm(values: Sequence[float]) -> list[float]:
    """Return the p values of one family of tests, adjusted by Holm's step-down method (1979).

    adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)),  p_(1) <= ... <= p_(m)

    A nan stays nan and does not count as a test.
    """
    order = sorted(
        (i for i, value in enumerate(values) if not math.isnan(value)), key=lambda i: values[i]
    )
    adjusted = [math.nan] * len(values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def mean_ranks(scores: Sequence[Sequence[float]], larger_is_better: Sequence[bool]) -> list[float]:
    """Return the rank of each row, averaged over columns; rank 1 is best, ties share their mean.

    Args:
        scores: A matrix (rows, columns).
        larger_is_better: Direction of each column.
    """
    table = np.asarray(scores) * np.where(larger_is_better, -1.0, 1.0)
    return [float(rank) for rank in stats.rankdata(table, axis=0).mean(axis=1)]
