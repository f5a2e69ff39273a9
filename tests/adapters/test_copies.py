"""Copies, pickles, state and casts of an adapted model."""

import copy
import pickle

import adapter_zoo as zoo
import pytest
import torch

from rlora.adapters import inject
from rlora.adapters.declared import declared_modules, derived_tensors


def copy_of(adapters):
    return copy.deepcopy(adapters)


def pickled(adapters):
    return pickle.loads(pickle.dumps(adapters))


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("duplicate", [copy_of, pickled])
@pytest.mark.parametrize("name", zoo.KINDS)
def test_a_copy_works_and_is_independent(name, duplicate, ran, adapt):
    adapters = adapt("bert", name).adapters
    expected = zoo.logits(adapters.model)
    if not ran:
        adapters = adapt("bert", name).adapters
    other = duplicate(adapters)
    assert torch.equal(zoo.logits(other.model), expected)
    zoo.perturb(other.adapter_parameters(), 0.3, seed=2)
    zoo.logits(other.model).square().mean().backward()
    assert not torch.allclose(zoo.logits(other.model), expected)
    assert all(p.grad is not None for p in other.adapter_parameters().values())
    with other.merged():
        torch.testing.assert_close(zoo.logits(other.model), zoo.logits(copy.deepcopy(other.model)))
        assert torch.equal(zoo.logits(adapters.model), expected)
    assert torch.equal(zoo.logits(adapters.model), expected)
    assert all(p.grad is None for p in adapters.adapter_parameters().values())


@pytest.mark.parametrize("name", zoo.METHODS)
def test_the_state_holds_no_regenerated_tensor(name, adapt):
    adapted = adapt("gpt2", name)
    parameters = {n for n, _ in adapted.model.named_parameters(remove_duplicate=False)}
    persistent = {n for n, _ in zoo.build("gpt2").named_buffers()}
    derived = set(derived_tensors([("", adapted.model)]))
    assert set(adapted.model.state_dict()) <= parameters | persistent | derived
    assert bool(derived) == (name == "lora-xs")
    updates = adapted.adapters.adapters
    regenerated = [
        n for *_, module in declared_modules(updates.items()) for n in module.regenerated
    ]
    assert bool(regenerated) == (name not in zoo.UNSEEDED)


@pytest.mark.parametrize("name", zoo.METHODS)
def test_the_state_and_the_seed_restore_the_model(name, adapt):
    source, same = adapt("bert", name), adapt("bert", name, moved=False)
    other = adapt("bert", name, seed=1, moved=False)
    zoo.perturb(source.adapters.adapter_parameters(), 0.3, seed=8)
    expected = zoo.logits(source.model)
    same.model.load_state_dict(source.model.state_dict())
    assert torch.equal(zoo.logits(same.model), expected)
    other.model.load_state_dict(source.model.state_dict())
    assert torch.equal(zoo.logits(other.model), expected) == (name in zoo.UNSEEDED)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", zoo.METHODS)
def test_a_cast_model_runs_and_trains(name, dtype, adapt):
    expected = zoo.logits(adapt("bert", name).model)
    adapted = adapt("bert", name)
    adapted.model.to(dtype)
    actual = zoo.logits(adapted.model)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, rtol=0.15, atol=0.15)
    actual.square().mean().backward()
    for parameter in adapted.adapters.adapter_parameters().values():
        assert parameter.grad.dtype == dtype
        assert parameter.grad.isfinite().all()
    with adapted.adapters.merged():
        torch.testing.assert_close(
            zoo.logits(adapted.model).float(), actual.float(), rtol=0.15, atol=0.15
        )


@pytest.mark.parametrize("name", zoo.KINDS)
def test_integer_structure_survives_a_cast(name, adapt):
    adapted = adapt("bert", name)
    before = {n: b.clone() for n, b in adapted.model.named_buffers() if not b.is_floating_point()}
    adapted.model.to(torch.bfloat16)
    after = dict(adapted.model.named_buffers())
    assert all(torch.equal(after[n], b) for n, b in before.items())


def test_parameters_have_stable_names(adapt):
    adapted = adapt("gpt2", "rlora-srht-core", targets=["q", "fc2"])
    expected = {
        f"h.{i}.{site}.{p}"
        for i in (0, 1)
        for site in ("attn.c_attn[q]", "mlp.c_proj")
        for p in "abg"
    }
    assert set(adapted.adapters.adapter_parameters()) == expected


@pytest.mark.parametrize("name", [*zoo.METHODS, *zoo.BASELINES])
def test_a_half_precision_backbone_trains_in_float32_under_autocast(name):
    net = zoo.build("bert").to(torch.bfloat16)
    adapters = inject(
        net,
        zoo.BASELINES[name]() if name in zoo.BASELINES else zoo.make(name),
        head=zoo.HEADS["bert"],
    )
    trained = {**adapters.adapter_parameters(), **adapters.head_parameters()}
    assert all(parameter.dtype == torch.float32 for parameter in trained.values())
    frozen = [
        m.weight
        for m in net.modules()
        if isinstance(m, torch.nn.Linear) and not m.weight.requires_grad
    ]
    assert all(weight.dtype == torch.bfloat16 for weight in frozen)
    zoo.perturb(adapters.adapter_parameters(), 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        zoo.logits(net).float().square().mean().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in trained.values())
    assert all(parameter.grad.isfinite().all() for parameter in trained.values())
