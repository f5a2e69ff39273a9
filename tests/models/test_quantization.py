"""Frozen weights in 8 or 4 bits: their accuracy and size, adapters on top, and refusals."""

import sys

import pytest
import torch
from torch import nn

from rlora.adapters import inject
from rlora.adapters.full import Full
from rlora.adapters.lora import LoRA
from rlora.config.build import build
from rlora.models.quantization import dequantize, quantize
from rlora.models.random_init import random_model

pytest.importorskip("torchao")
ADAPTERS = ("lora", "rlora", "nola", "randlora", "vera", "dora", "lora_xs", "fourierft")
SIZES = {"nola": ["num_bases=4", "rank=2"], "fourierft": ["num_frequencies=8", "alpha=900"]}
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


def weights(network):
    return {
        name: module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    }


@pytest.mark.parametrize("how", ["int8", "nf4"])
def test_a_quantized_weight_is_close_to_the_original(how):
    before, network = weights(model().model), model(how).model
    assert dequantize(network) is not None
    assert dequantize(network) is None
    for name, weight in weights(network).items():
        off = (weight - before[name]).abs()
        if name == "lm_head":
            assert not off.any()
        elif how == "int8":  # rounded to 127 steps of the row's largest
            assert (off <= before[name].abs().amax(1, keepdim=True) / 127).all()
        else:  # normal numbers by 16 quantiles; 0.0092 is the mean square of QLoRA's code on them
            power = before[name].detach().square().mean()
            assert 0.005 < float(off.square().mean().detach() / power) < 0.015


@pytest.mark.parametrize(("how", "most"), [("int8", 1.1), ("nf4", 0.6)])
def test_a_quantized_weight_takes_one_byte_or_half_a_byte(how, most):
    for name, weight in weights(model(how).model).items():
        if name == "lm_head":
            continue
        parts = [getattr(weight, part) for part in weight.__tensor_flatten__()[0]]
        # nf4's table of 16 quantiles has the same size for every weight
        size = sum(part.nbytes for part in parts if part.numel() != 16)
        assert size <= most * weight.numel(), name


@pytest.mark.parametrize("how", ["int8", "nf4"])
def test_the_fingerprint_is_that_of_the_original_weights(how):
    assert model(how).fingerprint == model().fingerprint


@pytest.mark.parametrize("how", ["int8", "nf4"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_starts_at_zero_and_learns_on_quantized_weights(compose, name, how):
    network = model(how).model
    plain = network(TOKENS).logits
    overrides = [f"adapter={name}", "adapter.targets=all-linear"]
    overrides += [f"adapter.{size}" for size in SIZES.get(name, ["rank=2"])]
    adapters = inject(network, build(compose("model=tiny_llama", *overrides).config["adapter"]))
    torch.testing.assert_close(network(TOKENS).logits, plain, rtol=1e-5, atol=1e-6)
    losses = []
    optimizer = torch.optim.Adam(adapters.adapter_parameters().values(), lr=2e-2)
    for _ in range(8):
        loss = network(TOKENS, labels=TOKENS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02
    assert all(weight.grad is None for weight in weights(network).values())


@pytest.mark.parametrize("how", ["int8", "nf4"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients_equal_those_on_the_dequantized_weights(compose, name, how):
    size = ["adapter.rank=2"] if name != "fourierft" else []
    method = build(compose("model=tiny_llama", f"adapter={name}", *size).config["adapter"])
    gradients = []
    for restored in (False, True):
        network = model(how).model
        if restored:
            dequantize(network)
        adapters = inject(network, method)
        generator = torch.Generator().manual_seed(1)
        for parameter in adapters.adapter_parameters().values():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        network(TOKENS, labels=TOKENS).loss.backward()
        parameters = adapters.adapter_parameters()
        gradients.append({key: parameter.grad for key, parameter in parameters.items()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][key], rtol=1e-3, atol=1e-6)


def test_an_adapter_merges_into_dequantized_weights_only():
    network = model("nf4").model
    adapters = inject(network, LoRA(rank=2, targets="all-linear"))
    for parameter in adapters.adapter_parameters().values():
        nn.init.normal_(parameter, std=0.1)
    with pytest.raises(
        RuntimeError, match="a frozen weight is quantized and cannot hold the sum: run unmerged"
    ):
        adapters.merge()
    expected = network(TOKENS).logits
    assert dequantize(network) == "NF4Tensor"
    torch.testing.assert_close(adapters.unwrap()(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_quantized_weight_cannot_be_trained():
    with pytest.raises(
        ValueError,
        match=r"q_proj\.weight is quantized and cannot be trained: set model\.quantize",
    ):
        inject(model("int8").model, Full())


def test_a_head_stays_dense_and_trains():
    network = model("int8", kind="classification").model
    inject(network, LoRA(rank=2), head=["score.weight"])
    network(TOKENS, labels=torch.tensor([0, 1])).loss.backward()
    assert network.score.weight.grad.abs().sum() > 0


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        network = model("nf4", gradient_checkpointing=checkpointing).model.train()
        adapters = inject(network, LoRA(rank=2))
        network(TOKENS, labels=TOKENS).loss.backward()
        gradients.append([parameter.grad for parameter in adapters.adapter_parameters().values()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_conv1d_an_unknown_type_and_a_missing_torchao_are_refused(monkeypatch):
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
