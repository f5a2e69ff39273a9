"""The normal quantile and its logarithm against SciPy, NumPy and defining identities."""

import numpy as np
import pytest
import scipy.stats

from rlora.ops.philox import log_exact, normal_quantile

EDGES = [
    0.5,
    0.075,
    0.925,
    np.nextafter(0.075, 0),
    np.nextafter(0.925, 1),
    np.exp(-25.0),
    2.0**-53,
    1 - 2.0**-53,
]


@pytest.mark.parametrize(
    "p",
    [
        np.linspace(1e-6, 1 - 1e-6, 100_001),
        np.logspace(-16, -1, 20_001),
        1 - np.logspace(-15.9, -1, 20_001),
        np.array(EDGES),
    ],
    ids=["body", "lower tail", "upper tail", "edges"],
)
def test_quantile_matches_scipy(p):
    np.testing.assert_allclose(normal_quantile(p), scipy.stats.norm.ppf(p), rtol=0, atol=1e-14)


def test_quantile_of_extreme_tails():
    p = np.logspace(-300, -16, 20_001)
    # |z| reaches 37, where neighboring doubles are 7e-15 apart.
    np.testing.assert_allclose(normal_quantile(p), scipy.stats.norm.ppf(p), rtol=2e-15, atol=0)


def test_quantile_is_odd_and_increasing():
    steps = np.arange(1, 2**12) * 2.0**-13  # exact, like their complements
    low, high = normal_quantile(steps), normal_quantile(1 - steps)
    assert (low == -high).all()
    assert (np.diff(low) > 0).all()
    assert normal_quantile(np.array([0.5])) == 0.0


def test_logarithm():
    x = np.concatenate(
        [np.logspace(-307, 300, 20_001), np.linspace(0.5, 2, 20_001), [5e-324, 1.0, 0.5**0.5]]
    )
    np.testing.assert_allclose(log_exact(x), np.log(x), rtol=1e-15, atol=0)
    assert log_exact(np.array([1.0])) == 0.0
