"""One layer's update: the formula, its two ways to compute, its gradients."""

import adapter_zoo as zoo
import naive_updates
import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

from rlora.adapters import Site, rlora
from rlora.ops.philox import RandomSource


def site(name, out_features, in_features):
    """A site with a random W in float64."""
    generator = torch.Generator().manual_seed(out_features * 100 + in_features)
    weight = torch.randn(out_features, in_features, generator=generator).double()
    return Site(name, out_features, in_features, lambda: weight)


# square, tall and wide, powers of two and not, all of one build so that shared bases are cut
SITES = [
    site("a", 16, 16),
    site("b", 24, 16),
    site("c", 16, 24),
    site("d", 7, 11),
    site("e", 13, 6),
]
SMALL = [site("tall", 6, 4), site("wide", 4, 5)]


def layers(name, sites=SITES, **changes):
    method = zoo.make(name, **changes)
    built = method.build(sites, RandomSource(0))
    for number, layer in enumerate(built):
        layer.double()
        zoo.perturb(layer, 0.5, seed=number)
    return method, built


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("name", zoo.METHODS)
def test_start_is_exactly_zero(name):
    for layer in zoo.make(name).build(SITES, RandomSource(0)):
        assert layer.delta().shape == (layer.site.out_features, layer.site.in_features)
        assert layer.delta().count_nonzero() == 0
        assert layer(torch.randn(3, layer.site.in_features)).count_nonzero() == 0


@pytest.mark.parametrize("name", zoo.METHODS)
def test_delta_is_the_formula(name):
    method, built = layers(name)
    for layer in built:
        expected = torch.from_numpy(naive_updates.delta(method, layer))
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(layer.delta(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", zoo.METHODS)
def test_forward_is_delta_times_x(name):
    for layer in layers(name)[1]:
        for shape in [(3,), (1, 1), (2, 5), ()]:
            x = inputs(*shape, layer.site.in_features)
            torch.testing.assert_close(layer(x), x @ layer.delta().T, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", zoo.METHODS)
def test_factors_multiply_to_delta(name):
    method, built = layers(name)
    for layer in built:
        factors = layer.factors()
        if name in zoo.FULL_RANK:
            assert factors is None
            continue
        b, a = factors
        assert b.shape == (layer.site.out_features, method.rank)
        assert a.shape == (method.rank, layer.site.in_features)
        torch.testing.assert_close(layer.scale * (b @ a), layer.delta(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", [name for name in zoo.METHODS if name not in zoo.FROZEN_NORM])
def test_gradients_of_input_and_parameters(name, number):
    size = {} if name == "fourierft" else {"rank": 3}
    layer = layers(name, SMALL, **size)[1][number]
    names, values = zip(*layer.named_parameters(), strict=True)

    def apply(x, *parameters):
        return functional_call(
            layer, dict(zip(names, map(torch.clone, parameters), strict=True)), (x,)
        )

    def delta(*parameters):
        replaced = {f"layer.{n}": p.clone() for n, p in zip(names, parameters, strict=True)}
        return functional_call(_Delta(layer), replaced, ())

    assert gradcheck(apply, (inputs(2, layer.site.in_features).requires_grad_(), *values))
    assert gradcheck(delta, values)


class _Delta(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self):
        return self.layer.delta()


@pytest.mark.parametrize("name", zoo.METHODS)
def test_layers_of_one_shape_differ_or_share_as_the_method_says(name):
    sites = [site("one", 16, 24), site("two", 16, 24)]
    first, second = zoo.make(name).build(sites, RandomSource(0))
    for layer in (first, second):
        zoo.perturb(layer, 0.5, seed=4)  # the same step for both
    shares = name.startswith(("vera", "randlora")) or name in ("lora-xs", "fourierft")
    assert torch.equal(first.delta(), second.delta()) == shares


@pytest.mark.parametrize("name", zoo.METHODS)
def test_dropout_acts_on_the_input_in_training_only(name):
    layer = layers(name, dropout=0.5)[1][0]
    x = inputs(200, 16)
    full = x @ layer.delta().T
    layer.eval()
    torch.testing.assert_close(layer(x), full, rtol=1e-9, atol=1e-11)
    layer.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = layer(x)
        torch.manual_seed(0)
        kept = torch.nn.functional.dropout(torch.ones_like(x), 0.5)
    assert 0.3 < (kept == 0).double().mean() < 0.7
    torch.testing.assert_close(dropped, (x * kept) @ layer.delta().T, rtol=1e-9, atol=1e-11)
    assert layers(name)[1][0].train()(x).allclose(full)  # without dropout, training changes nothing


@pytest.mark.parametrize("kind", ["rlora-srht", "rlora-srht-core"])
def test_kept_and_generated_rows_of_rlora_are_equal_to_the_bit(kind, monkeypatch):
    """S H D is kept up to a rank, and generated in forward and backward above it."""
    results = []
    for limit in (64, 0):
        monkeypatch.setattr(rlora, "KEPT_ROWS", limit)
        _, (layer,) = layers(kind, [site("layer", 40, 24)])
        assert (layer.right.kept is None) == (limit == 0)
        layer.delta().square().sum().backward()
        results.append([layer.delta(), *(each.grad for each in layer.parameters())])
    for kept, generated in zip(*results, strict=True):
        assert torch.equal(kept, generated)
