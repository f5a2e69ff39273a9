"""Means and paired differences, against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from rlora.reports.statistics import estimate, paired


def test_the_interval_is_students():
    values = [0.61, 0.7, 0.64, 0.69, 0.58]
    found = estimate(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.n, found.mean, found.sd) == (5, pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    wider = estimate(values, confidence=0.99)
    assert wider.low < found.low < found.high < wider.high


def test_one_run_has_no_spread_and_none_no_mean():
    found = estimate([0.5])
    assert (found.n, found.mean) == (1, 0.5)
    assert all(map(math.isnan, (found.sd, found.low, found.high)))
    with pytest.raises(ValueError, match="at least one run"):
        estimate([])


def test_pairs_are_the_shared_keys():
    first, second = {1: 0.5, 2: 0.6, 3: 0.9}, {2: 0.7, 3: 0.8, 4: 0.1}
    found = paired(first, second)
    assert found == estimate([0.7 - 0.6, 0.8 - 0.9])
    assert paired({1: 0.5}, {2: 0.5}) is None


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(0.3, 1.0, (2000, 5))
    covered = [found.low <= 0.3 <= found.high for found in (estimate(list(row)) for row in draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
