"""NOLA mixes the basis once for all layers: no layer gets a stale row or another layer's."""

import adapter_zoo as zoo
import pytest
import torch
from torch.func import functional_call, grad, vmap

from rlora.adapters.nola import DenseBasis, HadamardBasis

BASES = ["nola-dense", "nola-hadamard"]


@pytest.fixture(params=BASES)
def nola(request, adapt):
    adapted = adapt("bert", request.param)
    adapted.name = request.param
    return adapted


def coefficients(adapted):
    return {n: p for n, p in adapted.model.named_parameters() if n.endswith((".a", ".b"))}


def fresh_logits(adapted, adapt):
    """Return the logits of a model with the same values that has not run before."""
    other = adapt("bert", adapted.name)
    values = coefficients(adapted)
    with torch.no_grad():
        for n, p in coefficients(other).items():
            p.copy_(values[n])
    return zoo.logits(other.model)


def test_one_product_per_pass_serves_all_layers_of_a_shape(nola, monkeypatch):
    calls = []
    for basis in (DenseBasis, HadamardBasis):
        original = basis.forward
        monkeypatch.setattr(
            basis, "forward", lambda self, c, f=original: (calls.append(len(c)), f(self, c))[1]
        )
    zoo.logits(nola.model).sum().backward()
    # in: 32 (q, v, fc1) and 48 (fc2); out: 32 (q, v, fc2) and 48 (fc1); two blocks
    assert sorted(calls) == [2, 2, 6, 6]
    zoo.logits(nola.model)
    assert len(calls) == 8


CHANGES = {
    "in place": lambda p: p.add_(1.0),
    "copy": lambda p: p.copy_(p + 1.0),
    "through data": lambda p: p.data.add_(1.0),
    "new data": lambda p: setattr(p, "data", p.data + 1.0),
    "filled": lambda p: p.data.fill_(2.0),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_changed_coefficients_are_used(nola, change, mode, adapt):
    with mode():
        before = zoo.logits(nola.model)
    with torch.no_grad():
        for parameter in coefficients(nola).values():
            CHANGES[change](parameter)
    with mode():
        after = zoo.logits(nola.model)
    assert not torch.allclose(before, after)
    assert torch.equal(after, fresh_logits(nola, adapt))


@pytest.mark.parametrize("number", [0, -1])
def test_one_changed_layer_recomputes_the_product(nola, number, adapt):
    zoo.logits(nola.model)
    with torch.no_grad():
        list(coefficients(nola).values())[number].add_(1.0)
    assert torch.equal(zoo.logits(nola.model), fresh_logits(nola, adapt))


def test_vector_to_parameters(nola, adapt):
    zoo.logits(nola.model)
    values = list(coefficients(nola).values())
    vector = torch.nn.utils.parameters_to_vector(values).detach() + 1.0
    torch.nn.utils.vector_to_parameters(vector, values)
    assert torch.equal(zoo.logits(nola.model), fresh_logits(nola, adapt))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_cast_after_a_forward(nola, mode, dtype):
    with mode():
        expected = zoo.logits(nola.model)
        nola.model.to(dtype)
        actual = zoo.logits(nola.model)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_samples_made_inside_the_mode(nola, mode):
    plain = {n: p.detach() + 0.5 for n, p in coefficients(nola).items()}
    expected = functional_call(nola.model, plain, (zoo.token_ids(),)).logits
    with mode():
        for _ in range(2):
            sampled = {n: p + 0.5 for n, p in coefficients(nola).items()}
            assert torch.equal(
                functional_call(nola.model, sampled, (zoo.token_ids(),)).logits, expected
            )


@pytest.mark.parametrize("number", [0, -1])
def test_function_transforms_leave_no_cached_rows(nola, number):
    name, value = list(coefficients(nola).items())[number]
    expected = zoo.gradients(zoo.logits(nola.model).square().mean(), {name: value})[name]
    before, ids = zoo.logits(nola.model), zoo.token_ids()

    def loss(one):
        return functional_call(nola.model, {name: one}, (ids,)).logits.square().mean()

    torch.testing.assert_close(grad(loss)(value.detach()), expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(zoo.logits(nola.model), before)
    many = value.detach() + torch.arange(3.0)[:, None]
    one_by_one = torch.stack([loss(each) for each in many])
    torch.testing.assert_close(vmap(loss)(many), one_by_one, rtol=1e-4, atol=1e-6)
    assert torch.equal(zoo.logits(nola.model), before)


def test_gradients_of_a_part_of_the_parameters(nola):
    values = coefficients(nola)
    full = zoo.gradients(zoo.logits(nola.model).square().mean(), values)
    for name in (next(iter(values)), list(values)[-1]):
        loss = zoo.logits(nola.model).square().mean()
        (actual,) = torch.autograd.grad(loss, [values[name]])
        torch.testing.assert_close(actual, full[name], rtol=1e-4, atol=1e-7)


def test_a_failed_forward_leaves_no_stale_rows(nola, adapt):
    with pytest.raises(IndexError):
        zoo.logits(nola.model, zoo.token_ids() + 1000)
    zoo.perturb(coefficients(nola), 0.3, seed=3)
    assert torch.equal(zoo.logits(nola.model), fresh_logits(nola, adapt))


def test_frozen_coefficients_still_count(nola):
    for name, parameter in coefficients(nola).items():
        parameter.requires_grad_(name.endswith(".b"))
    loss = zoo.logits(nola.model).square().mean()
    loss.backward()
    assert all((p.grad is not None) == n.endswith(".b") for n, p in coefficients(nola).items())
