"""Means, paired differences, tests and ranks, against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from rlora.reports.statistics import estimate, holm, mean_ranks, p_value, paired

VALUES = [0.61, 0.7, 0.64, 0.69, 0.58]


def test_the_interval_is_that_of_student():
    mean = estimate(VALUES)
    low, high = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert (mean.n, mean.mean, mean.sd) == (
        5,
        pytest.approx(np.mean(VALUES)),
        pytest.approx(np.std(VALUES, ddof=1)),
    )
    assert (mean.low, mean.high) == (pytest.approx(low), pytest.approx(high))
    wider = estimate(VALUES, confidence=0.99)
    assert wider.low < mean.low < mean.high < wider.high


def test_one_run_has_no_spread_and_no_run_raises():
    mean = estimate([0.5])
    assert (mean.n, mean.mean) == (1, 0.5)
    assert all(map(math.isnan, (mean.sd, mean.low, mean.high)))
    with pytest.raises(ValueError, match="at least one run"):
        estimate([])


def test_only_common_keys_are_paired():
    first, second = {1: 0.5, 2: 0.6, 3: 0.9}, {2: 0.7, 3: 0.8, 4: 0.1}
    difference = paired(first, second)
    assert difference == estimate([0.7 - 0.6, 0.8 - 0.9])
    assert paired({1: 0.5}, {2: 0.5}) is None


@pytest.mark.parametrize(("interval", "n", "tolerance"), [("t", 5, 0.015), ("bootstrap", 40, 0.05)])
def test_the_interval_covers_the_true_difference_at_its_confidence_level(interval, n, tolerance):
    draws = np.random.default_rng(0).exponential(0.3, (2000 if interval == "t" else 100, n))
    draws = np.random.default_rng(0).normal(0.3, 1.0, draws.shape) if interval == "t" else draws
    covered = [
        mean.low <= 0.3 <= mean.high
        for mean in (estimate(list(row), interval=interval) for row in draws)
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=tolerance)


def test_the_bootstrap_of_a_skewed_sample_is_skewed_and_reproducible():
    values = list(np.random.default_rng(1).exponential(1.0, 30))
    mean = estimate(values, interval="bootstrap")
    assert mean == estimate(values, interval="bootstrap")
    assert mean.high - mean.mean > mean.mean - mean.low
    assert estimate(values[:2], interval="bootstrap") == estimate(values[:2])
    assert math.isnan(estimate([0.5, 0.5, 0.5], interval="bootstrap").low)


def test_the_paired_test_agrees_with_scipy():
    second = [0.66, 0.71, 0.62, 0.77, 0.6]
    difference = paired(dict(enumerate(VALUES)), dict(enumerate(second)))
    assert p_value(difference) == pytest.approx(stats.ttest_rel(second, VALUES).pvalue)


def test_one_pair_has_no_p_value():
    assert math.isnan(p_value(estimate([0.1])))


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
@pytest.mark.parametrize("gain", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [277, 408, 1043])
def test_equal_differences_have_neither_a_test_nor_an_interval(interval, gain, dtype, rows):
    """One more right in each of three seeds once had p = 2e-11, from rounding of the scores."""
    right = (rows // 2, rows // 2 + 7, rows // 2 + 31)
    first = {seed: float(dtype(n) / dtype(rows)) for seed, n in enumerate(right)}
    second = {seed: float(dtype(n + gain) / dtype(rows)) for seed, n in enumerate(right)}
    difference = paired(first, second, interval=interval)
    assert difference.mean == pytest.approx(gain / rows, abs=1e-7)
    assert difference.sd == 0
    assert all(map(math.isnan, (p_value(difference), difference.low, difference.high)))
    assert not difference.has_spread


def test_one_row_more_or_less_is_a_spread():
    first = {seed: n / 40_430 for seed, n in enumerate((30_000, 30_100, 30_200))}  # QQP's dev set
    second = {seed: n / 40_430 for seed, n in enumerate((30_001, 30_101, 30_202))}
    difference = paired(first, second)
    expected = stats.ttest_rel(list(second.values()), list(first.values())).pvalue
    assert p_value(difference) == pytest.approx(expected)


def test_holm_agrees_with_hand_computed_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    with_nan = holm([0.02, math.nan, 0.03])
    assert with_nan[0] == pytest.approx(0.04)
    assert math.isnan(with_nan[1])
    assert holm([]) == []


def test_holm_bounds_the_family_wise_error():
    """The probability of a false rejection among ten true hypotheses is at most 5 %."""
    draws = np.random.default_rng(0).uniform(size=(4000, 10))
    assert np.mean([min(holm(list(row))) <= 0.05 for row in draws]) <= 0.06


def test_mean_ranks_share_ties_and_respect_directions():
    scores = [[0.9, 1.0], [0.8, 2.0], [0.8, 3.0]]
    assert mean_ranks(scores, [True, True]) == pytest.approx([2.0, 2.25, 1.75])
    assert mean_ranks(scores, [True, False]) == pytest.approx([1.0, 2.25, 2.75])
