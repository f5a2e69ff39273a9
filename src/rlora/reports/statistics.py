"""Means over repeated runs, paired differences and their tests, and ranks."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

INTERVALS = ("t", "bootstrap")
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean over n runs.

    Attributes:
        n: Number of runs.
        mean: Their mean.
        sd: Sample standard deviation (n - 1); nan for a single run.
        low: Lower end of the interval; nan for a single run.
        high: Upper end.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float


def estimate(values: Sequence[float], confidence: float = 0.95, interval: str = "t") -> Estimate:
    """Mean, standard deviation and interval of independent values.

    Args:
        values: One of each run.
        confidence: Of the interval.
        interval: "t": Student's, mean +- t sd / sqrt(n); "bootstrap": BCa (Efron 1987) with 10,000 resamples, which
            wants some ten values, and is Student's below three.

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
    if interval == "bootstrap" and n > 2 and sd > 0:
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
    """Second minus first over the keys that both have; None where they share none."""
    shared = [second[key] - first[key] for key in first if key in second]
    return estimate(shared, confidence, interval) if shared else None


def p_value(difference: Estimate) -> float:
    """Student's two-sided test that a mean difference is zero; nan where there is no spread to judge by."""
    if difference.n < 2 or difference.sd == 0:
        return math.nan
    return float(
        2
        * stats.t.sf(
            abs(difference.mean) * math.sqrt(difference.n) / difference.sd, difference.n - 1
        )
    )


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979) of the p values of one family; nan stays nan and counts for nothing.

    adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)),  p_(1) <= ... <= p_(m)
    """
    order = sorted(
        (i for i, value in enumerate(values) if not math.isnan(value)), key=lambda i: values[i]
    )
    adjusted, reached = [math.nan] * len(values), 0.0
    for rank, index in enumerate(order):
        reached = max(reached, min(1.0, (len(order) - rank) * values[index]))
        adjusted[index] = reached
    return adjusted


def mean_ranks(scores: Sequence[Sequence[float]], larger_is_better: Sequence[bool]) -> list[float]:
    """Each row's rank, 1 the best, averaged over columns; equal scores share the mean of their ranks.

    Args:
        scores: Rows of as many numbers each.
        larger_is_better: By column.
    """
    table = np.asarray(scores) * np.where(larger_is_better, -1.0, 1.0)
    return [float(rank) for rank in stats.rankdata(table, axis=0).mean(axis=1)]
