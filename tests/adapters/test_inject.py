"""Injection: logits do not change at the start, exactly the declared parameters train."""

import random

import adapter_zoo as zoo
import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from rlora.adapters import inject
from rlora.adapters.linear import AdaptedLinear
from rlora.adapters.lora import LoRA

EVERY = [*zoo.METHODS, *zoo.BASELINES]
MODELS = list(zoo.TARGETS)


def any_method(name, model):
    return (
        zoo.BASELINES[name]()
        if name in zoo.BASELINES
        else zoo.make(name, targets=zoo.TARGETS[model])
    )


def fits(name, model):
    return not (name == "bitfit" and model == "llama")


PAIRS = [(name, model) for name in EVERY for model in MODELS if fits(name, model)]


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_logits_stay_exactly_the_same(name, model):
    net = zoo.build(model)
    before = zoo.logits(net)
    inject(net, any_method(name, model), head=zoo.HEADS[model])
    assert torch.equal(zoo.logits(net), before)


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_exactly_the_declared_parameters_train(name, model):
    net = zoo.build(model)
    originals = dict(net.named_parameters())
    adapters = inject(net, any_method(name, model), head=zoo.HEADS[model])
    training = {id(p) for p in net.parameters() if p.requires_grad}
    declared = [*adapters.adapter_parameters().values(), *adapters.head_parameters().values()]
    assert training == {id(p) for p in declared}
    assert len(declared) == len(training)
    assert {n: id(p) for n, p in adapters.head_parameters().items()} == {
        n: id(originals[n]) for n in zoo.HEADS[model]
    }
    backbone = {n for n in originals if n not in zoo.HEADS[model]}
    trained_in_place = {n for n, p in originals.items() if p.requires_grad} - set(zoo.HEADS[model])
    expected = {"full": backbone, "bitfit": {n for n in backbone if n.endswith("bias")}}.get(
        name, set()
    )
    assert trained_in_place == expected


def count(name, out, inner):
    """Return the number of trained parameters of one layer."""
    options = {"rank": 1} | zoo.METHODS[name][1]
    r, m, n = options["rank"], min(out, inner), -(-min(out, inner) // options["rank"])

    def power(d):
        return 2 ** (d - 1).bit_length()

    return {
        "lora": r * (inner + out),
        "lora-rs": r * (inner + out),
        "rlora-srht": inner + out,
        "rlora-srht-core": inner + out + r,
        "rlora-fastfood": power(inner) + power(out),
        "rlora-fastfood-core": power(inner) + power(out) + r,
        "nola-dense": 20,
        "nola-hadamard": 20,
        "vera": out + r,
        "vera-wide": out + r,
        "dora": r * (inner + out) + out,
        "lora-xs": r * r,
        "fourierft": 12,
    }.get(name, n * (r + m))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", zoo.METHODS)
def test_parameter_count(name, model, adapt):
    adapters = adapt(model, name).adapters
    kv = 16 if model == "llama" else 32
    shapes = [(32, 32), (kv, 32), (48, 32), (32, 48)] * 2
    assert sorted(
        (a.site.out_features, a.site.in_features) for a in adapters.adapters.values()
    ) == sorted(shapes)
    report = adapters.report()
    assert report.adapter == sum(count(name, *shape) for shape in shapes)
    fresh = zoo.build(model)
    total = sum(p.numel() for p in fresh.parameters())
    head = sum(fresh.get_parameter(n).numel() for n in zoo.HEADS[model])
    assert (report.head, report.backbone) == (head, total - head)
    assert report.percent == pytest.approx(100 * report.adapter / (total - head))


@pytest.mark.parametrize("name", EVERY)
def test_the_model_keeps_its_training_mode(name):
    for training in (True, False):
        net = zoo.build("bert").train(training)
        inject(net, any_method(name, "bert"))
        assert all(module.training == training for module in net.modules())


@pytest.mark.parametrize("name", EVERY)
def test_the_global_generators_are_untouched(name):
    net = zoo.build("bert")
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    states = torch.get_rng_state(), numpy_state, random.getstate()
    inject(net, any_method(name, "bert"), seed=5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]


def test_twice_is_refused_and_changes_nothing(adapt):
    adapted = adapt("bert", "lora")
    before = zoo.logits(adapted.model)
    with pytest.raises(RuntimeError, match="carries adapters already"):
        inject(adapted.model, zoo.make("vera", targets=["k"]))
    assert torch.equal(zoo.logits(adapted.model), before)


def test_a_refused_injection_leaves_the_model_as_it_was():
    net = zoo.build("bert")
    for method in (LoRA(rank=33, targets=["q"]), LoRA(targets=["nowhere"])):
        with pytest.raises(ValueError, match="adapter"):
            inject(net, method)
    assert all(p.requires_grad for p in net.parameters())
    assert not any(isinstance(module, AdaptedLinear) for module in net.modules())


def test_an_unknown_head_parameter_is_refused_before_anything_changes():
    net = zoo.build("bert")
    with pytest.raises(ValueError, match=r"clasifier\.weight"):
        inject(net, LoRA(targets=["q"]), head=["clasifier.weight"])
    assert all(p.requires_grad for p in net.parameters())


def test_bitfit_needs_biases():
    with pytest.raises(ValueError, match="adapter=bitfit"):
        inject(zoo.build("llama"), zoo.BASELINES["bitfit"]())


def test_bitfit_counts_a_tied_bias_once():
    model = BertForMaskedLM(zoo.build("bert").config)  # its decoder and its head share one bias
    adapters = inject(model, zoo.BASELINES["bitfit"]())
    expected = [n for n, _ in model.named_parameters() if n.endswith("bias")]
    assert sorted(adapters.trained_in_backbone) == sorted(expected)


def test_only_the_adapted_rows_of_a_fused_projection_change(adapt):
    adapted = adapt("gpt2", "lora", targets=["q", "v"])
    layer = adapted.model.transformer.h[0].attn.c_attn
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    before, after = layer.base(x), layer(x)
    assert torch.equal(before[:, 32:64], after[:, 32:64])
    for rows, adapter in zip((slice(0, 32), slice(64, 96)), layer.adapters(), strict=True):
        torch.testing.assert_close(
            after[:, rows] - before[:, rows], x @ adapter.delta().T, rtol=1e-4, atol=1e-5
        )
        assert (after[:, rows] != before[:, rows]).all()
    names = [name for name in adapted.adapters.adapters if ".0." in name]
    assert names == ["h.0.attn.c_attn[q]", "h.0.attn.c_attn[v]"]


def test_an_adapted_layer_reads_like_a_linear_one(adapt):
    bert, gpt2 = adapt("bert", "lora"), adapt("gpt2", "lora")
    for layer in (
        bert.model.bert.encoder.layer[0].intermediate.dense,
        gpt2.model.transformer.h[0].mlp.c_fc,
    ):
        assert (layer.out_features, layer.in_features) == (48, 32)
        assert layer.weight is layer.base.weight
        assert layer.bias is layer.base.bias
