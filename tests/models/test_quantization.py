"""Frozen weights in 8 or 4 bits: what they stand for, every adapter on top, and what is refused."""

import sys

import pytest
import torch
from torch import nn

from rlora.adapters import inject
from rlora.adapters.full import Full
from rlora.adapters.lora import LoRA
from rlora.config.build import build
from rlora.models.quantization import dense, quantize
from rlora.models.random_init import random_model

pytest.importorskip("torchao")
ADAPTERS = ("lora", "rlora", "nola", "randlora", "vera")
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
TOKENS = torch.arange(20).reshape(2, 10)


def model(how=None, kind="text", **options):
    return random_model(LLAMA, kind=kind, num_labels=2, seed=0, quantize=how, **options)


def weights(net):
    return {
        name: module.weight for name, module in net.named_modules() if isinstance(module, nn.Linear)
    }


@pytest.mark.parametrize("how", ["int8", "nf4"])
def test_a_weight_stands_for_almost_the_same_numbers(how):
    before, net = weights(model().model), model(how).model
    assert dense(net) is not None
    assert dense(net) is None
    for name, weight in weights(net).items():
        off = (weight - before[name]).abs()
        if name == "lm_head":
            assert not off.any()
        elif how == "int8":  # rounded to 127 steps of the row's largest
            assert (off <= before[name].abs().amax(1, keepdim=True) / 127).all()
        else:  # normal numbers by 16 quantiles; 0.0092 is the mean square of QLoRA's code on them
            assert (
                0.005
                < float(off.square().mean().detach() / before[name].detach().square().mean())
                < 0.015
            )


@pytest.mark.parametrize(("how", "most"), [("int8", 1.1), ("nf4", 0.6)])
def test_it_takes_a_byte_or_half_of_one(how, most):
    for name, weight in weights(model(how).model).items():
        parts = (
            [getattr(weight, part) for part in weight.__tensor_flatten__()[0]]
            if name != "lm_head"
            else []
        )
        held = sum(
            part.nbytes for part in parts if part.numel() != 16
        )  # nf4's own table is shared in size, not stored
        assert held <= most * weight.numel(), name


@pytest.mark.parametrize("how", ["int8", "nf4"])
def test_the_fingerprint_is_of_what_was_quantized(how):
    assert model(how).fingerprint == model().fingerprint


@pytest.mark.parametrize("how", ["int8", "nf4"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_starts_at_and_learns_on_it(compose, name, how):
    net = model(how).model
    plain = net(TOKENS).logits
    words = [f"adapter={name}", "adapter.rank=2", "adapter.targets=all-linear"]
    words += ["adapter.num_bases=4"] if name == "nola" else []
    adapters = inject(net, build(compose("model=tiny_llama", *words).config["adapter"]))
    torch.testing.assert_close(net(TOKENS).logits, plain, rtol=1e-5, atol=1e-6)
    losses = []
    optimizer = torch.optim.Adam(adapters.adapter_parameters().values(), lr=2e-2)
    for _ in range(8):
        loss = net(TOKENS, labels=TOKENS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.02
    assert all(weight.grad is None for weight in weights(net).values())


@pytest.mark.parametrize("how", ["int8", "nf4"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients_are_those_of_the_dense_weights_it_stands_for(compose, name, how):
    method = build(
        compose("model=tiny_llama", f"adapter={name}", "adapter.rank=2").config["adapter"]
    )
    found = []
    for restored in (False, True):
        net = model(how).model
        if restored:
            dense(net)
        adapters = inject(net, method)
        generator = torch.Generator().manual_seed(1)
        for parameter in adapters.adapter_parameters().values():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        net(TOKENS, labels=TOKENS).loss.backward()
        found.append(
            {key: parameter.grad for key, parameter in adapters.adapter_parameters().items()}
        )
    for key, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][key], rtol=1e-3, atol=1e-6)


def test_it_is_not_merged_into_but_what_it_stands_for_is():
    net = model("nf4").model
    adapters = inject(net, LoRA(rank=2, targets="all-linear"))
    for parameter in adapters.adapter_parameters().values():
        nn.init.normal_(parameter, std=0.1)
    with pytest.raises(
        RuntimeError, match="a frozen weight is quantized and cannot hold the sum: run unmerged"
    ):
        adapters.merge()
    expected = net(TOKENS).logits
    assert dense(net) == "NF4Tensor"
    torch.testing.assert_close(adapters.unwrap()(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)


def test_what_is_quantized_does_not_train():
    with pytest.raises(
        ValueError,
        match=r"q_proj\.weight is to be trained, but it is quantized: set model\.quantize",
    ):
        inject(model("int8").model, Full())


def test_a_head_stays_as_it_is_and_trains():
    net = model("int8", kind="classification").model
    inject(net, LoRA(rank=2), head=["score.weight"])
    net(TOKENS, labels=torch.tensor([0, 1])).loss.backward()
    assert net.score.weight.grad.abs().sum() > 0


def test_checkpointed_gradients_are_the_same():
    found = []
    for checkpointing in (False, True):
        net = model("nf4", gradient_checkpointing=checkpointing).model.train()
        adapters = inject(net, LoRA(rank=2))
        net(TOKENS, labels=TOKENS).loss.backward()
        found.append([parameter.grad for parameter in adapters.adapter_parameters().values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_conv1d_and_unknown_words_are_refused(monkeypatch):
    gpt2 = random_model(
        {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2},
        kind="text",
        num_labels=2,
        seed=0,
    ).model
    with pytest.raises(
        ValueError, match=r"model\.quantize=int8: GPT2LMHeadModel has no nn\.Linear in its blocks"
    ):
        quantize(gpt2, "int8")
    with pytest.raises(
        ValueError, match=r"model\.quantize='int3' is unknown: choose int8, nf4 or null"
    ):
        model("int3")
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(
        ValueError, match=r"model\.quantize=nf4 needs torchao: pip install 'rlora\[quantization\]'"
    ):
        model("nf4")
