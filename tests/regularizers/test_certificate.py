"""Arithmetic of certificates: both steps, union-bound terms, the grid of prior variances."""

import math

import pytest
import torch
from torch import nn

from rlora.regularizers import bounds
from rlora.regularizers.certificate import (
    CertificateOptions,
    GibbsRisk,
    UnionBoundTerm,
    baseline_bound,
    kl_and_terms,
    risk_bound,
)
from rlora.regularizers.posterior import GaussianPosterior

OPTIONS = CertificateOptions()


def posterior(sigma0=0.01):
    torch.manual_seed(0)
    net = nn.ModuleDict({"head": nn.Linear(4, 3)})
    result = GaussianPosterior(
        net, {"head": dict(net["head"].named_parameters())}, {"head": sigma0}
    )
    with torch.no_grad():
        net["head"].weight.add_(0.05)
        result.rho["head"].add_(0.3)
    return result


def test_the_bound_covers_samples_and_examples():
    result = risk_bound(
        GibbsRisk(0.1, rows=5000, draws=20_000), 7.0, [UnionBoundTerm("k", 2.0)], OPTIONS
    )
    upper = bounds.klinv(0.1, math.log(1 / 0.01) / 20_000)
    expected = bounds.klinv(upper, (9.0 + math.log(2 * math.sqrt(5000) / 0.025)) / 5000)
    assert result.risk_upper == upper.item()
    assert result.bound == expected.item()
    assert 0.1 < result.risk_upper < result.bound < 0.2


def test_fewer_samples_more_terms_and_more_kl_loosen_the_bound():
    base = risk_bound(GibbsRisk(0.1, 5000, 20_000), 7.0, [], OPTIONS).bound
    assert risk_bound(GibbsRisk(0.1, 5000, 1000), 7.0, [], OPTIONS).bound > base
    assert (
        risk_bound(GibbsRisk(0.1, 5000, 20_000), 7.0, [UnionBoundTerm("k", 1.0)], OPTIONS).bound
        > base
    )
    assert risk_bound(GibbsRisk(0.1, 5000, 20_000), 9.0, [], OPTIONS).bound > base
    assert risk_bound(GibbsRisk(0.1, 50_000, 20_000), 7.0, [], OPTIONS).bound < base


def test_candidates_add_a_term():
    gaussian = posterior()
    divergence, terms = kl_and_terms(gaussian, CertificateOptions(candidates=5))
    assert divergence == gaussian.kl().item()
    assert terms == [UnionBoundTerm("5 candidates", math.log(5))]


def test_a_prior_variance_chosen_afterwards_is_the_best_of_the_grid_with_its_term():
    gaussian = posterior()
    divergence, (_, term) = kl_and_terms(gaussian, CertificateOptions(tune_sigma0=True))
    costs = {}
    for j in range(1, 300):
        sigma0 = torch.tensor(math.exp(-j / 20))  # its square is exp(-j / 10)
        costs[j] = (
            gaussian.group_kl("head", sigma0).item() + 2 * math.log(j) + math.log(math.pi**2 / 6)
        )
    best = min(costs, key=costs.get)
    assert divergence + term.nats == pytest.approx(costs[best], rel=1e-6)
    assert term.choice == f"sigma_head^2 = exp(-{best}/10)"
    assert divergence + term.nats < gaussian.kl().item()


def test_the_weights_of_the_whole_grid_sum_to_one():
    assert sum(
        math.exp(-2 * math.log(j) - math.log(math.pi**2 / 6)) for j in range(1, 200_000)
    ) == pytest.approx(1.0, abs=1e-4)


def test_the_baseline_is_clopper_pearson_at_the_same_confidence():
    assert baseline_bound(30, 1000, OPTIONS) == {
        "error": 0.03,
        "rows": 1000,
        "bound": bounds.clopper_pearson(30, 1000, 0.035),
    }


def test_an_underflowed_sigma_is_refused():
    gaussian = posterior()
    with torch.no_grad():
        gaussian.rho["head"][0] = -200.0
    with pytest.raises(
        ValueError,
        match=r"a posterior sigma of the head has underflowed .* regularizer\.sigma_head",
    ):
        kl_and_terms(gaussian, OPTIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": 0.0}, r"certificate\.delta=0\.0 is invalid: expected a probability of failure"),
        ({"delta_mc": 1.0}, r"certificate\.delta_mc=1\.0 is invalid"),
        ({"delta": 0.6, "delta_mc": 0.4}, "expected a sum below 1"),
        ({"draws": 0}, r"certificate\.draws=0 is invalid: expected an integer of at least 1"),
        ({"rows_per_draw": 0}, r"certificate\.rows_per_draw=0"),
        ({"candidates": 0}, r"certificate\.candidates=0"),
    ],
)
def test_options_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CertificateOptions(**changes)
