"""Adapted models under the ways a training loop can call them."""

import adapter_zoo as zoo
import pytest
import torch
from torch.func import functional_call

MODELS = list(zoo.TARGETS)


def loss_of(model, seed=0):
    return zoo.logits(model, zoo.token_ids(seed=seed)).square().mean()


def trained(adapted):
    return {n: p for n, p in adapted.model.named_parameters() if p.requires_grad}


def assert_same(actual, expected, rtol=1e-4, atol=1e-6):
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            actual[name], expected[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", zoo.METHODS)
def test_every_trained_parameter_gets_a_gradient(name, model, adapt):
    adapted = adapt(model, name)
    loss_of(adapted.model).backward()
    for n, parameter in adapted.model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, n
            assert parameter.grad.isfinite().all(), n
            assert parameter.grad.count_nonzero() > 0, n
        else:
            assert parameter.grad is None, n


@pytest.mark.parametrize("name", zoo.METHODS)
def test_the_very_first_step_can_move_the_update(name, adapt):
    adapted = adapt("bert", name, moved=False)
    loss_of(adapted.model).backward()
    for site, adapter in adapted.adapters.adapters.items():
        assert any(p.grad.count_nonzero() for p in adapter.parameters()), site


@pytest.mark.parametrize("name", [name for name in zoo.METHODS if name not in zoo.FROZEN_NORM])
def test_gradients_point_along_the_loss(name, adapt):
    adapted = adapt("bert", name)
    adapted.model.double()
    parameters = trained(adapted)
    gradient = zoo.gradients(loss_of(adapted.model), parameters)
    steps = {n: torch.sign(g) * 1e-6 for n, g in gradient.items()}
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            for n, p in parameters.items():
                p.add_(steps[n], alpha=sign)
            losses.append(loss_of(adapted.model))
            for n, p in parameters.items():
                p.sub_(steps[n], alpha=sign)
    expected = sum((gradient[n] * steps[n]).sum() for n in steps)
    torch.testing.assert_close((losses[0] - losses[1]) / 2, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", zoo.KINDS)
def test_functional_call_sees_the_replaced_parameters(name, adapt):
    adapted, other = adapt("bert", name), adapt("bert", name)
    zoo.perturb(trained(other), 0.2, seed=5)
    start = zoo.logits(adapted.model)
    replaced = {n: p.detach().clone() for n, p in trained(other).items()}
    expected = zoo.logits(other.model)
    assert not torch.allclose(start, expected)
    for _ in range(2):
        actual = functional_call(adapted.model, replaced, (zoo.token_ids(),)).logits
        assert torch.equal(actual, expected)
        assert torch.equal(zoo.logits(adapted.model), start)


@pytest.mark.parametrize("name", zoo.KINDS)
def test_functional_call_gives_gradients_to_the_replaced_parameters(name, adapt):
    adapted, other = adapt("bert", name), adapt("bert", name)
    zoo.perturb(trained(other), 0.2, seed=5)
    expected = zoo.gradients(loss_of(other.model), trained(other))
    mean = {n: p.detach().clone().requires_grad_() for n, p in trained(other).items()}
    loss_of(adapted.model)  # whatever is kept of this forward must not be used
    sampled = {n: 1.0 * p for n, p in mean.items()}
    loss = functional_call(adapted.model, sampled, (zoo.token_ids(),)).logits.square().mean()
    assert_same(zoo.gradients(loss, mean), expected)
    assert all(p.grad is None for p in adapted.model.parameters())


@pytest.mark.parametrize("name", zoo.KINDS)
def test_two_forwards_before_one_backward(name, adapt):
    adapted = adapt("bert", name)
    parameters = trained(adapted)
    first = zoo.gradients(loss_of(adapted.model, 1), parameters)
    second = zoo.gradients(loss_of(adapted.model, 2), parameters)
    both = zoo.gradients(loss_of(adapted.model, 1) + loss_of(adapted.model, 2), parameters)
    assert_same(both, {n: first[n] + second[n] for n in first})


@pytest.mark.parametrize("name", zoo.KINDS)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_forwards_before_two_backwards(name, order, adapt):
    adapted = adapt("bert", name)
    expected = [zoo.gradients(loss_of(adapted.model, seed), trained(adapted)) for seed in (1, 2)]
    losses = [loss_of(adapted.model, seed) for seed in (1, 2)]
    for number in order:
        losses[number].backward()
    total = {n: expected[0][n] + expected[1][n] for n in expected[0]}
    assert_same({n: p.grad for n, p in trained(adapted).items()}, total)


@pytest.mark.parametrize("name", zoo.KINDS)
def test_gradient_accumulation(name, adapt):
    adapted = adapt("bert", name)
    expected = [zoo.gradients(loss_of(adapted.model, seed), trained(adapted)) for seed in range(3)]
    for seed in range(3):
        loss_of(adapted.model, seed).backward()
    total = {n: sum(each[n] for each in expected) for n in expected[0]}
    assert_same({n: p.grad for n, p in trained(adapted).items()}, total)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", zoo.KINDS)
def test_evaluation_before_training(name, mode, adapt):
    adapted, fresh = adapt("bert", name), adapt("bert", name)
    expected = zoo.gradients(loss_of(fresh.model), trained(fresh))
    with mode():
        evaluated = zoo.logits(adapted.model)
    loss = loss_of(adapted.model)
    with mode():
        assert torch.equal(
            zoo.logits(adapted.model), evaluated
        )  # between a forward and its backward too
    assert_same(zoo.gradients(loss, trained(adapted)), expected)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", zoo.KINDS)
def test_training_uses_the_new_values_after_every_step(name, foreach, optimizer, adapt):
    adapted = adapt("bert", name, moved=False)
    steps = optimizer(trained(adapted).values(), lr=0.01, foreach=foreach)
    losses = []
    for _ in range(8):
        loss = loss_of(adapted.model)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
        other = adapt(
            "bert", name, moved=False
        )  # never ran, so it holds nothing of an earlier step
        other.model.load_state_dict(adapted.model.state_dict())
        assert torch.equal(zoo.logits(other.model), zoo.logits(adapted.model))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", zoo.KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(name, model, adapt):
    adapted = adapt(model, name)
    adapted.model.train()
    expected = zoo.gradients(loss_of(adapted.model), trained(adapted))
    adapted.model.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    for _ in range(2):
        adapted.model.zero_grad()
        loss_of(adapted.model).backward()
        assert_same({n: p.grad for n, p in trained(adapted).items()}, expected)


@pytest.mark.parametrize("name", zoo.KINDS)
def test_dropout_acts_in_training_only(name, adapt):
    adapted, without = adapt("bert", name, dropout=0.5), adapt("bert", name)
    expected = zoo.logits(without.model)
    assert torch.equal(zoo.logits(adapted.model), expected)
    adapted.model.train(), without.model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.allclose(zoo.logits(adapted.model), expected)
    torch.testing.assert_close(zoo.logits(without.model), expected)


@pytest.mark.parametrize("name", zoo.KINDS)
def test_autocast(name, adapt):
    adapted = adapt("bert", name)
    expected = zoo.logits(adapted.model)
    with torch.autocast("cpu", torch.bfloat16):
        actual = zoo.logits(adapted.model)
        actual.float().square().mean().backward()
    torch.testing.assert_close(actual.float(), expected, rtol=0.1, atol=0.1)
    assert all(p.grad.isfinite().all() for p in trained(adapted).values())
