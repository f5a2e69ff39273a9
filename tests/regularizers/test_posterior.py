"""The Gaussian posterior: its divergence, its draws, and what the model sees meanwhile."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from rlora.regularizers.noise import check_per_example, sample_per_example, sample_per_step
from rlora.regularizers.posterior import GaussianPosterior


class Scaled(nn.Module):
    """A stand-in for an adapter that multiplies activations: y = x a."""

    per_example = True

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.linspace(-1, 1, 4))

    def forward(self, x):
        return x * self.a


def model():
    torch.manual_seed(0)
    return nn.ModuleDict({"adapter": Scaled(), "head": nn.Linear(4, 3), "frozen": nn.Linear(2, 2)})


def posterior(net, **sigma0):
    parameters = {
        "adapter": {"a": net["adapter"].a},
        "head": {"weight": net["head"].weight, "bias": net["head"].bias},
    }
    return GaussianPosterior(net, parameters, {"adapter": 0.1, "head": 0.3} | sigma0)


def moved(net, own):
    """Means and deviations away from the prior."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (
            *net["adapter"].parameters(),
            *net["head"].parameters(),
            *own.rho.values(),
        ):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return own


def distributions(own):
    for group in own.members:
        q = Normal(own.mean(group).double(), own.sigma(group).double())
        yield q, Normal(own.mean0(group).double(), own.sigma0(group).double())


def test_there_is_no_divergence_at_the_start():
    assert posterior(model()).kl().item() == pytest.approx(0.0, abs=1e-6)


def test_divergence_is_that_of_the_distributions():
    net = model()
    own = moved(net, posterior(net))
    expected = sum(kl_divergence(q, p).sum() for q, p in distributions(own))
    assert own.kl().dtype == torch.float64
    torch.testing.assert_close(own.kl(), expected, rtol=1e-5, atol=0)


def test_divergence_is_the_mean_log_ratio_of_draws():
    net = model()
    own = moved(net, posterior(net))
    torch.manual_seed(0)
    ratio = 0.0
    for q, p in distributions(own):
        x = q.sample((200_000,))
        ratio += (q.log_prob(x) - p.log_prob(x)).sum(1).mean().item()
    assert own.kl().item() == pytest.approx(ratio, rel=0.01)


def seen(net):
    return [net["adapter"].a, net["head"].weight, net["head"].bias]


def test_a_draw_is_seen_inside_and_gone_outside():
    net = model()
    own = posterior(net)
    originals = seen(net)
    before, state = [p.detach().clone() for p in originals], torch.get_rng_state()
    with sample_per_step(own, seed=3):
        inside = seen(net)
        assert all(not torch.equal(a, b) for a, b in zip(inside, before, strict=True))
    with sample_per_step(own, seed=3):
        assert all(torch.equal(a, b) for a, b in zip(inside, seen(net), strict=True))
    assert all(a is b for a, b in zip(seen(net), originals, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(originals, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)  # the run's own numbers are left alone


def test_what_is_replaced_comes_back_after_an_error():
    net = model()
    own, parameter = posterior(net), net["adapter"].a
    with pytest.raises(RuntimeError, match="broken"), sample_per_step(own, 0):
        raise RuntimeError("broken")
    assert net["adapter"].a is parameter


def test_gradients_come_by_way_of_the_noise():
    """theta = mu + exp(rho) eps: the gradient of rho is that of theta times sigma eps."""
    net = model()
    own = posterior(net)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    with sample_per_step(own, seed=1):
        noise = net["adapter"].a.detach() - own.mean("adapter").detach()
        net["adapter"](x).square().sum().backward()
    a = (own.mean("adapter") + noise).detach().requires_grad_()
    (x * a).square().sum().backward()
    torch.testing.assert_close(net["adapter"].a.grad, a.grad)
    torch.testing.assert_close(own.rho["adapter"].grad, a.grad * noise)


def test_draws_have_the_posteriors_moments():
    net = model()
    own = moved(net, posterior(net))
    draws = []
    for seed in range(4000):
        with torch.no_grad(), sample_per_step(own, seed):
            draws.append(torch.cat([net["head"].weight.flatten(), net["head"].bias]))
    draws = torch.stack(draws)
    mean, sigma = own.mean("head").detach(), own.sigma("head").detach()
    assert bool(((draws.mean(0) - mean).abs() < 5 * sigma / math.sqrt(4000)).all())
    torch.testing.assert_close(draws.std(0), sigma, rtol=0.06, atol=0)


def test_every_example_has_a_draw_of_its_own_with_the_same_law():
    net = model()
    own = moved(net, posterior(net))
    x, n = torch.tensor([[0.3, -1.0, 2.0, 0.1]]), 20_000
    with torch.no_grad(), sample_per_example(own, seed=0, examples=n):
        each = net["head"](net["adapter"](x.expand(n, 4)))
    assert len(each.unique(dim=0)) == n
    single = []
    for seed in range(4000):
        with torch.no_grad(), sample_per_step(own, seed):
            single.append(net["head"](net["adapter"](x))[0])
    single = torch.stack(single)
    torch.testing.assert_close(each.mean(0), single.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(each.T.cov(), single.T.cov(), atol=0.1, rtol=0.1)
    assert net["head"]._forward_hooks == {}


def test_gradients_of_a_heads_sampled_outputs_are_finite_even_at_zero():
    net = model()
    own = posterior(net)
    with sample_per_example(own, seed=0, examples=2):
        net["head"](torch.zeros(2, 4)).sum().backward()
    assert own.rho["head"].grad.isfinite().all()


def test_a_shared_parameter_is_replaced_wherever_it_is():
    net = model()
    net["again"] = nn.Linear(4, 3)
    net["again"].weight = net["head"].weight
    own = posterior(net)
    with sample_per_step(own, 0):
        assert net["again"].weight is net["head"].weight is not own.members["head"][0].parameter
    assert net["again"].weight is net["head"].weight is own.members["head"][0].parameter


def test_the_priors_mean_can_be_seen_again():
    net = model()
    own = posterior(net)
    start = net["adapter"].a.detach().clone()
    moved(net, own)
    with own.at_prior_mean():
        assert torch.equal(net["adapter"].a, start)
    assert not torch.equal(net["adapter"].a, start)


@pytest.mark.parametrize("sigma", [0.0, 1e-30, -1.0, math.inf, math.nan])
def test_a_deviation_that_underflows_is_refused(sigma):
    with pytest.raises(
        ValueError, match=r"regularizer\.sigma_head=.* expected a finite number of at least"
    ):
        posterior(model(), head=sigma)


def test_noise_of_each_example_is_refused_where_it_does_not_fit():
    net = model()
    net["adapter"].per_example = False
    with pytest.raises(
        ValueError, match=r"for Scaled: .*\(rlora, vera\); set regularizer\.noise=per_step"
    ):
        check_per_example(posterior(net))
    other = nn.ModuleDict({"norm": nn.LayerNorm(3)})
    own = GaussianPosterior(other, {"head": {"norm.weight": other["norm"].weight}}, {"head": 0.1})
    with pytest.raises(ValueError, match=r"norm\.weight of LayerNorm"):
        check_per_example(own)
    own = posterior(model())
    with (
        pytest.raises(RuntimeError, match="one vector per example"),
        sample_per_example(own, 0, examples=2),
    ):
        own.members["head"][0].owners[0][0](torch.ones(2, 3, 4))
