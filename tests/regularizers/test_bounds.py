"""Bounds against their definitions, each other, exact sums and a simulation of coverage."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from rlora.regularizers import bounds
from rlora.regularizers.bounds import (
    best_lambda,
    catoni,
    chernoff,
    clopper_pearson,
    complexity,
    hoeffding,
    kl,
    klinv,
    lambda_bound,
    mcallester,
    quadratic,
)

RISKS = torch.cat(
    [torch.tensor([0.0, 1e-9, 1e-4], dtype=torch.float64), torch.linspace(0.01, 1, 34).double()]
)
COMPLEXITIES = torch.logspace(-8, 1, 40, dtype=torch.float64)
GRID = torch.cartesian_prod(RISKS, COMPLEXITIES).T


def test_kl_of_bernoulli_variables():
    p = torch.distributions.Bernoulli(torch.tensor(0.3, dtype=torch.float64))
    q = torch.distributions.Bernoulli(torch.tensor(0.1, dtype=torch.float64))
    torch.testing.assert_close(kl(0.1, 0.3), torch.distributions.kl_divergence(q, p))
    assert kl(0.0, 0.0) == kl(1.0, 1.0) == kl(0.4, 0.4) == 0
    assert kl(0.5, 0.0) == kl(0.5, 1.0) == math.inf
    assert kl(0.0, 0.25).item() == pytest.approx(-math.log(0.75), rel=1e-15)


def test_klinv_brackets_the_root_from_above():
    q, c = GRID
    p = klinv(q, c)
    assert bool((p >= q).all())
    assert bool((p <= 1).all())
    inner = p < 1
    assert bool((kl(q, p)[inner] >= c[inner] * (1 - 1e-9) - 1e-15).all())  # the upper end
    below = torch.maximum(p - 2e-12, q)
    assert bool((kl(q, below) <= c * (1 + 1e-9) + 1e-15).all())  # and within one width of the root


def test_klinv_has_a_closed_form_at_zero_errors():
    c = torch.tensor([1e-6, 0.01, 1.0], dtype=torch.float64)
    torch.testing.assert_close(klinv(0.0, c), -torch.expm1(-c), rtol=0, atol=2e-12)


@pytest.mark.parametrize("relaxation", [mcallester, quadratic])
def test_relaxations_are_never_below_klinv(relaxation):
    q, c = GRID
    assert bool((relaxation(q, c) >= klinv(q, c) - 2e-12).all())


@pytest.mark.parametrize("number", [0.01, 0.3, 1.0, 1.7])
def test_parametrized_relaxations_are_never_below_klinv(number):
    q, c = GRID
    assert bool((lambda_bound(q, c, number) >= klinv(q, c) - 2e-12).all())
    assert bool((catoni(q, c, 5 * number) >= klinv(q, c) - 2e-12).all())


def test_catoni_equals_klinv_at_its_best_parameter():
    q, c = torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.02, dtype=torch.float64)
    p = klinv(q, c)
    best = torch.log(p * (1 - q) / (q * (1 - p)))
    torch.testing.assert_close(catoni(q, c, best), p, rtol=0, atol=1e-11)


def test_quadratic_is_lambda_at_its_optimum():
    q, c = GRID
    best = best_lambda(q, c)
    assert bool(((best > 0) & (best < 2)).all())
    torch.testing.assert_close(lambda_bound(q, c, best), quadratic(q, c), rtol=1e-12, atol=1e-14)
    for other in (0.9 * best, torch.clamp(1.1 * best, max=1.99)):
        assert bool((lambda_bound(q, c, other) >= quadratic(q, c) * (1 - 1e-12)).all())


@pytest.mark.parametrize(
    "bound", [mcallester, quadratic, lambda r, c: lambda_bound(r, c, 0.7), klinv]
)
def test_gradients_match_finite_differences(bound):
    r = torch.tensor([0.02, 0.2, 0.5], dtype=torch.float64, requires_grad=True)
    c = torch.tensor([0.005, 0.05, 0.3], dtype=torch.float64, requires_grad=True)
    assert gradcheck(bound, (r, c), eps=1e-5, atol=1e-5, rtol=1e-5)


def test_gradients_are_finite_at_the_edges():
    r = torch.tensor([0.0, 0.0, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    c = torch.tensor([0.0, 0.1, 0.0, 0.1], dtype=torch.float64, requires_grad=True)
    for gradient in torch.autograd.grad(klinv(r, c).sum(), (r, c)):
        assert bool(gradient.isfinite().all())


def test_complexity_is_the_formula_of_maurer():
    assert complexity(3.0, 400, 0.05).item() == pytest.approx(
        (3.0 + math.log(2 * 20 / 0.05)) / 400, rel=1e-15
    )


def exact_tail(errors, n, p):
    p = Fraction(p)
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(errors + 1))


@pytest.mark.parametrize(("errors", "n"), [(0, 5), (1, 5), (4, 5), (3, 40), (17, 40)])
@pytest.mark.parametrize("delta", [0.01, 0.3])
def test_clopper_pearson_solves_the_exact_binomial_sum(errors, n, delta):
    p = clopper_pearson(errors, n, delta)
    assert float(exact_tail(errors, n, p)) == pytest.approx(delta, rel=1e-9)


def test_clopper_pearson_at_the_edges():
    assert clopper_pearson(7, 7, 0.05) == 1.0
    assert clopper_pearson(0, 10, 0.05) == pytest.approx(1 - 0.05**0.1)


def test_test_set_bounds_are_ordered():
    n, delta = 500, 0.05
    for errors in (0, 3, 100, 400):
        exact = clopper_pearson(errors, n, delta)
        assert exact <= chernoff(errors / n, n, delta) <= hoeffding(errors / n, n, delta)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_delta_outside_0_1_is_refused(delta):
    for bound in (
        lambda: complexity(0.0, 5, delta),
        lambda: hoeffding(0.1, 5, delta),
        lambda: clopper_pearson(0, 5, delta),
    ):
        with pytest.raises(
            ValueError, match=r"expected a probability of failure strictly between 0 and 1"
        ):
            bound()


@pytest.mark.parametrize("n", [0, -1, 2.5, math.nan])
def test_a_count_below_one_is_refused(n):
    for bound in (
        lambda: complexity(0.0, n, 0.1),
        lambda: chernoff(0.1, n, 0.1),
        lambda: clopper_pearson(0, n, 0.1),
    ):
        with pytest.raises(ValueError, match=r"expected an integer of at least 1"):
            bound()


def test_a_risk_outside_0_1_is_refused():
    with pytest.raises(ValueError, match=r"expected a value in \[0, 1\]"):
        klinv(1.5, 0.1)
    with pytest.raises(ValueError, match=r"errors=6 is invalid: expected an integer in 0\.\.n=5"):
        clopper_pearson(6, 5, 0.1)


def test_coverage():
    """Over 1,000 data sets, the bounds of a posterior fail at a rate of at most delta."""
    rng, n, delta, trials = np.random.default_rng(0), 60, 0.1, 1000
    risks = np.linspace(0.05, 0.6, 8)  # of 8 predictors; the prior is uniform over them
    errors = rng.binomial(n, risks, size=(trials, 8))
    weights = np.exp(-0.5 * errors)  # the posterior depends on the data
    weights /= weights.sum(axis=1, keepdims=True)
    divergence = (weights * np.log(np.maximum(weights, 1e-300) * 8)).sum(axis=1)
    empirical = (weights * errors / n).sum(axis=1)
    true = weights @ risks
    c = complexity(torch.from_numpy(divergence), n, delta)
    for bound in (klinv, quadratic, mcallester):
        violations = float(
            (torch.from_numpy(true) > bound(torch.from_numpy(empirical), c)).double().mean()
        )
        assert violations <= delta
    single = np.array([clopper_pearson(int(k), n, delta) for k in range(n + 1)])
    rate = float((risks[3] > single[errors[:, 3]]).mean())
    assert (
        delta / 4 <= rate <= delta + 3 * math.sqrt(delta / trials)
    )  # exact, so the rate is close to delta
    assert bounds.WIDTH == 1e-12
