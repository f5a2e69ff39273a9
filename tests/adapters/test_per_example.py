"""Adapters whose parameters multiply activations give every example its own update."""

import pytest
import torch
from torch import nn

from rlora.adapters.declared import Site
from rlora.adapters.linear import AdaptedLinear
from rlora.adapters.lora import LoRA
from rlora.adapters.rlora import RLoRA
from rlora.adapters.vera import VeRA
from rlora.ops.philox import RandomSource

METHODS = {
    "rlora": RLoRA(rank=3),
    "rlora-core": RLoRA(rank=3, core=True),
    "rlora-many": RLoRA(rank=20, core=True),
    "rlora-fastfood": RLoRA(rank=3, transform="fastfood"),
    "vera": VeRA(rank=5),
}


def put(layer, values):
    for name, value in values.items():
        layer._parameters[name] = value


@pytest.mark.parametrize("lead", [(4,), (4, 6), (4, 2, 3)])
@pytest.mark.parametrize(("out", "size"), [(24, 40), (40, 24), (32, 32)])
@pytest.mark.parametrize("name", METHODS)
def test_every_row_is_computed_with_its_own_parameters(name, out, size, lead):
    layer = METHODS[name].build([Site("x", out, size)], RandomSource(0))[0].double()
    base = nn.Linear(size, out).double().requires_grad_(False)
    adapted = AdaptedLinear(base, [(0, out, layer)])
    assert layer.per_example
    rest = dict(layer.named_parameters())
    values = {
        k: torch.randn(lead[0], *p.shape, dtype=torch.float64).requires_grad_()
        for k, p in rest.items()
    }
    x = torch.randn(*lead, size, dtype=torch.float64, requires_grad=True)
    put(layer, values)
    assert layer.batched
    y = adapted(x)
    rows = []
    for row in range(lead[0]):
        put(layer, {k: v[row] for k, v in values.items()})
        assert not layer.batched
        rows.append(adapted(x[row]))
    put(layer, rest)
    expected = torch.stack(rows)
    torch.testing.assert_close(y, expected)
    inputs = (x, *values.values())
    g = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, inputs, g), torch.autograd.grad(expected, inputs, g)
    )


def test_other_adapters_do_not_claim_it():
    layer = LoRA(rank=2).build([Site("x", 8, 8)], RandomSource(0))[0]
    assert not layer.per_example
    with pytest.raises(NotImplementedError, match="LoRALayer has one update for all examples"):
        layer.each(torch.ones(2, 8))
