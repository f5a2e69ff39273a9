"""The Gaussian posterior: KL, samples, and the parameters that the model sees."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from rlora.regularizers.noise import check_per_example, sample_per_example, sample_per_step
from rlora.regularizers.posterior import GaussianPosterior


class Scaled(nn.Module):
    """A minimal adapter that multiplies activations: y = x * a."""

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


def moved(net, gaussian):
    """Move means and deviations away from the prior."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (
            *net["adapter"].parameters(),
            *net["head"].parameters(),
            *gaussian.rho.values(),
        ):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return gaussian


def distributions(gaussian):
    for group in gaussian.members:
        q = Normal(gaussian.mean(group).double(), gaussian.sigma(group).double())
        yield q, Normal(gaussian.mean0(group).double(), gaussian.sigma0(group).double())


def test_kl_is_zero_at_the_start():
    assert posterior(model()).kl().item() == pytest.approx(0.0, abs=1e-6)


def test_kl_equals_that_of_torch_distributions():
    net = model()
    gaussian = moved(net, posterior(net))
    expected = sum(kl_divergence(q, p).sum() for q, p in distributions(gaussian))
    assert gaussian.kl().dtype == torch.float64
    torch.testing.assert_close(gaussian.kl(), expected, rtol=1e-5, atol=0)


def test_kl_is_the_mean_log_ratio_of_samples():
    net = model()
    gaussian = moved(net, posterior(net))
    torch.manual_seed(0)
    ratio = 0.0
    for q, p in distributions(gaussian):
        x = q.sample((200_000,))
        ratio += (q.log_prob(x) - p.log_prob(x)).sum(1).mean().item()
    assert gaussian.kl().item() == pytest.approx(ratio, rel=0.01)


def parameters_of(net):
    return [net["adapter"].a, net["head"].weight, net["head"].bias]


def test_a_sample_replaces_the_parameters_inside_the_context_only():
    net = model()
    gaussian = posterior(net)
    originals = parameters_of(net)
    before, state = [p.detach().clone() for p in originals], torch.get_rng_state()
    with sample_per_step(gaussian, seed=3):
        inside = parameters_of(net)
        assert all(not torch.equal(a, b) for a, b in zip(inside, before, strict=True))
    with sample_per_step(gaussian, seed=3):
        assert all(torch.equal(a, b) for a, b in zip(inside, parameters_of(net), strict=True))
    assert all(a is b for a, b in zip(parameters_of(net), originals, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(originals, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is untouched


def test_groups_have_separate_noise_streams():
    net = model()
    gaussian = posterior(net, adapter=0.1, head=0.1)
    before = [parameter.detach().flatten() for parameter in parameters_of(net)]
    with torch.no_grad(), sample_per_step(gaussian, seed=3):
        after = [parameter.flatten() for parameter in parameters_of(net)]
    adapter, head = after[0] - before[0], after[1] - before[1]
    assert not torch.isclose(adapter, head[: len(adapter)]).any()


def test_parameters_are_restored_after_an_error():
    net = model()
    gaussian, parameter = posterior(net), net["adapter"].a
    with pytest.raises(RuntimeError, match="broken"), sample_per_step(gaussian, 0):
        raise RuntimeError("broken")
    assert net["adapter"].a is parameter


def test_gradients_flow_through_the_noise():
    """With theta = mu + exp(rho) eps, d/drho = d/dtheta * sigma eps."""
    net = model()
    gaussian = posterior(net)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    with sample_per_step(gaussian, seed=1):
        noise = net["adapter"].a.detach() - gaussian.mean("adapter").detach()
        net["adapter"](x).square().sum().backward()
    a = (gaussian.mean("adapter") + noise).detach().requires_grad_()
    (x * a).square().sum().backward()
    torch.testing.assert_close(net["adapter"].a.grad, a.grad)
    torch.testing.assert_close(gaussian.rho["adapter"].grad, a.grad * noise)


def test_samples_have_the_moments_of_the_posterior():
    net = model()
    gaussian = moved(net, posterior(net))
    samples = []
    for seed in range(2000):
        with torch.no_grad(), sample_per_step(gaussian, seed):
            samples.append(torch.cat([net["head"].weight.flatten(), net["head"].bias]))
    samples = torch.stack(samples)
    mean, sigma = gaussian.mean("head").detach(), gaussian.sigma("head").detach()
    assert bool(((samples.mean(0) - mean).abs() < 5 * sigma / math.sqrt(2000)).all())
    torch.testing.assert_close(samples.std(0), sigma, rtol=0.06, atol=0)


def test_samples_per_example_are_distinct_and_have_the_same_distribution():
    net = model()
    gaussian = moved(net, posterior(net))
    x, n = torch.tensor([[0.3, -1.0, 2.0, 0.1]]), 20_000
    with torch.no_grad(), sample_per_example(gaussian, seed=0, examples=n):
        each = net["head"](net["adapter"](x.expand(n, 4)))
    assert len(each.unique(dim=0)) == n
    single = []
    for seed in range(2000):
        with torch.no_grad(), sample_per_step(gaussian, seed):
            single.append(net["head"](net["adapter"](x))[0])
    single = torch.stack(single)
    torch.testing.assert_close(each.mean(0), single.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(each.T.cov(), single.T.cov(), atol=0.1, rtol=0.1)
    assert net["head"]._forward_hooks == {}


def test_gradients_of_sampled_head_outputs_are_finite_at_zero_inputs():
    net = model()
    gaussian = posterior(net)
    with sample_per_example(gaussian, seed=0, examples=2):
        net["head"](torch.zeros(2, 4)).sum().backward()
    assert gaussian.rho["head"].grad.isfinite().all()


def test_a_tied_parameter_is_replaced_in_every_module():
    net = model()
    net["again"] = nn.Linear(4, 3)
    net["again"].weight = net["head"].weight
    gaussian = posterior(net)
    with sample_per_step(gaussian, 0):
        assert (
            net["again"].weight is net["head"].weight is not gaussian.members["head"][0].parameter
        )
    assert net["again"].weight is net["head"].weight is gaussian.members["head"][0].parameter


def test_the_prior_mean_can_replace_the_parameters():
    net = model()
    gaussian = posterior(net)
    start = net["adapter"].a.detach().clone()
    moved(net, gaussian)
    with gaussian.at_prior_mean():
        assert torch.equal(net["adapter"].a, start)
    assert not torch.equal(net["adapter"].a, start)


@pytest.mark.parametrize("sigma", [0.0, 1e-30, -1.0, math.inf, math.nan])
def test_a_deviation_below_float32_is_refused(sigma):
    with pytest.raises(
        ValueError, match=r"regularizer\.sigma_head=.* expected a finite number of at least"
    ):
        posterior(model(), head=sigma)


def test_noise_per_example_is_refused_without_support():
    net = model()
    net["adapter"].per_example = False
    with pytest.raises(
        ValueError, match=r"for Scaled: .*\(rlora, vera\); set regularizer\.noise=per_step"
    ):
        check_per_example(posterior(net))
    other = nn.ModuleDict({"norm": nn.LayerNorm(3)})
    gaussian = GaussianPosterior(
        other, {"head": {"norm.weight": other["norm"].weight}}, {"head": 0.1}
    )
    with pytest.raises(ValueError, match=r"norm\.weight of LayerNorm"):
        check_per_example(gaussian)
    gaussian = posterior(model())
    with (
        pytest.raises(RuntimeError, match="one vector per example"),
        sample_per_example(gaussian, 0, examples=2),
    ):
        gaussian.members["head"][0].owners[0][0](torch.ones(2, 3, 4))
