"""Parameter groups, weight decay, and learning rates over the steps."""

import math

import pytest
import torch
from torch import nn

from rlora.config.build import build
from rlora.training.optimizers import SCHEDULES, adamw, schedule

PEAK = 0.5


def parameter(size=2):
    return nn.Parameter(torch.ones(size))


@pytest.fixture
def parameters():
    return {
        "adapter": {
            "layer.0.query.A": parameter(3),
            "layer.0.query.bias": parameter(),
            "layer.0.LayerNorm.weight": parameter(),
            "norm.weight": parameter(),
        },
        "head": {"classifier.weight": parameter(), "classifier.bias": parameter()},
    }


def groups_of(optimizer):
    return {group["name"]: group for group in optimizer.param_groups}


def test_rates_and_decay_by_group(parameters):
    optimizer = adamw(parameters, lr=0.1, head_lr=0.2, weight_decay=0.3)
    values = {
        name: (g["lr"], g["weight_decay"], len(g["params"]))
        for name, g in groups_of(optimizer).items()
    }
    assert values == {
        "adapter": (0.1, 0.3, 1),
        "adapter_no_decay": (0.1, 0.0, 3),
        "head": (0.2, 0.3, 1),
        "head_no_decay": (0.2, 0.0, 1),
    }
    assert groups_of(optimizer)["adapter"]["params"][0] is parameters["adapter"]["layer.0.query.A"]
    assert (
        groups_of(optimizer)["head_no_decay"]["params"][0] is parameters["head"]["classifier.bias"]
    )


def test_every_parameter_is_in_one_group(parameters):
    optimizer = adamw(parameters, lr=0.1, head_lr=0.2)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    given = [id(p) for members in parameters.values() for p in members.values()]
    assert sorted(held) == sorted(given)


def test_decay_shrinks_weights_but_not_biases(parameters):
    optimizer = adamw(parameters, lr=0.1, head_lr=0.1, weight_decay=0.5)
    for members in parameters.values():
        for p in members.values():
            p.grad = torch.zeros_like(p)
    optimizer.step()
    ends = {
        name: float(p.detach()[0]) for members in parameters.values() for name, p in members.items()
    }
    decayed = pytest.approx(1 - 0.1 * 0.5)
    assert ends["layer.0.query.A"] == decayed
    assert ends["classifier.weight"] == decayed
    assert {name: end for name, end in ends.items() if end == 1.0}.keys() == {
        "layer.0.query.bias",
        "layer.0.LayerNorm.weight",
        "norm.weight",
        "classifier.bias",
    }


def test_betas_and_eps_are_passed_on(parameters):
    optimizer = adamw(parameters, lr=0.1, head_lr=0.1, betas=[0.5, 0.75], eps=1e-3)
    assert all(
        group["betas"] == (0.5, 0.75) and group["eps"] == 1e-3 for group in optimizer.param_groups
    )


def test_an_empty_set_of_parameters_makes_no_group(parameters):
    assert set(groups_of(adamw(parameters | {"adapter": {}}, lr=0.0, head_lr=0.1))) == {
        "head",
        "head_no_decay",
    }


def test_the_config_builds_it(parameters, compose):
    optimizer = build(compose("optimizer.lr=0.25").config["optimizer"], parameters)
    assert groups_of(optimizer)["adapter"]["lr"] == 0.25
    assert optimizer.param_groups[0]["params"][0] is parameters["adapter"]["layer.0.query.A"]


@pytest.mark.parametrize("key", ["lr", "head_lr", "weight_decay"])
@pytest.mark.parametrize("value", [-1e-9, float("nan")])
def test_a_negative_number_is_refused(parameters, key, value):
    with pytest.raises(ValueError, match=rf"optimizer\.{key}"):
        adamw(parameters, **({"lr": 0.1, "head_lr": 0.1} | {key: value}))


def rates(shape, warmup, total):
    """The learning rate that each step takes, and the one after the last."""
    optimizer = torch.optim.SGD([parameter()], lr=PEAK)
    scheduler = schedule(optimizer, total_steps=total, shape=shape, warmup=warmup)
    values = []
    for _ in range(total):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*values, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("shape", SCHEDULES)
def test_warm_up_is_linear_and_reaches_the_peak(shape):
    values = rates(shape, 0.2, 50)
    assert values[:11] == pytest.approx([PEAK * step / 10 for step in range(11)])
    assert max(values) == PEAK


@pytest.mark.parametrize(
    ("shape", "fall"),
    [
        ("linear", lambda share: 1 - share),
        ("cosine", lambda share: (1 + math.cos(math.pi * share)) / 2),
        ("constant", lambda share: 1.0),
    ],
)
def test_after_warm_up(shape, fall):
    values = rates(shape, 0.2, 50)
    for step in (10, 20, 30, 49, 50):
        assert values[step] == pytest.approx(PEAK * fall((step - 10) / 40), abs=1e-12)


@pytest.mark.parametrize("shape", SCHEDULES)
def test_without_warm_up_it_starts_at_the_peak(shape):
    assert rates(shape, 0.0, 20)[0] == PEAK


def test_a_run_of_warm_up_alone():
    assert rates("linear", 1.0, 10)[:10] == pytest.approx([PEAK * step / 10 for step in range(10)])


def test_warm_up_is_rounded_to_steps():
    assert rates("constant", 0.06, 9)[0] == 0.0  # 0.54 steps: one
    assert rates("constant", 0.06, 8)[0] == PEAK  # 0.48: none


def test_an_unknown_shape_is_refused():
    optimizer = torch.optim.SGD([parameter()], lr=PEAK)
    with pytest.raises(ValueError, match=r"scheduler\.shape='triangle'.*linear, cosine, constant"):
        schedule(optimizer, total_steps=10, shape="triangle")


@pytest.mark.parametrize("warmup", [-0.01, 1.01, 100, float("nan")])
def test_a_share_outside_is_refused(warmup):
    optimizer = torch.optim.SGD([parameter()], lr=PEAK)
    with pytest.raises(ValueError, match=r"scheduler\.warmup"):
        schedule(optimizer, total_steps=10, warmup=warmup)
