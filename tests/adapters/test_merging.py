"""Merging adds dW to W, and unmerging restores W bit for bit."""

import adapter_zoo as zoo
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from rlora.adapters import inject
from rlora.adapters.linear import AdaptedLinear
from rlora.adapters.lora import LoRA

MODELS = list(zoo.TARGETS)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", zoo.METHODS)
def test_merged_logits_are_the_unmerged_ones(name, model, adapt):
    adapted = adapt(model, name)
    start, expected = zoo.logits(zoo.build(model)), zoo.logits(adapted.model)
    assert (start - expected).abs().max() > 1e-3
    with adapted.adapters.merged():
        torch.testing.assert_close(zoo.logits(adapted.model), expected, rtol=1e-3, atol=2e-5)
    assert torch.equal(zoo.logits(adapted.model), expected)


@pytest.mark.parametrize("model", MODELS)
def test_merged_weights_are_w_plus_delta_in_the_layout_of_the_layer(model, adapt):
    adapted = adapt(model, "rlora-srht-core")
    wrappers = list(adapted.adapters.layers.values())
    before = [wrapper.weight.detach().clone() for wrapper in wrappers]
    with adapted.adapters.merged():
        for wrapper, weight in zip(wrappers, before, strict=True):
            expected = weight.T.clone() if wrapper.transposed else weight.clone()
            for (start, stop), adapter in zip(wrapper.rows, wrapper.adapters(), strict=True):
                expected[start:stop] += adapter.delta()
            actual = wrapper.weight.T if wrapper.transposed else wrapper.weight
            torch.testing.assert_close(actual.detach(), expected.detach(), rtol=1e-6, atol=1e-7)
            assert wrapper.merged


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", zoo.KINDS)
def test_unmerging_restores_every_bit_in_the_same_storage(name, dtype, adapt):
    adapted = adapt("gpt2", name)
    adapted.model.to(dtype)
    weights = {
        n: (p, p.data_ptr(), p.detach().clone()) for n, p in adapted.model.named_parameters()
    }
    for _ in range(3):
        adapted.adapters.merge()
        adapted.adapters.unmerge()
    actual = dict(adapted.model.named_parameters())
    assert actual.keys() == weights.keys()
    for n, (parameter, pointer, value) in weights.items():
        assert actual[n] is parameter
        assert parameter.data_ptr() == pointer
        assert parameter.dtype == dtype
        assert torch.equal(parameter, value)


def test_the_bfloat16_sum_is_rounded_once(adapt):
    adapted = adapt("bert", "lora")
    adapted.model.to(torch.bfloat16)
    wrapper = next(iter(adapted.adapters.layers.values()))
    exact = wrapper.weight.float() + wrapper.adapters()[0].delta().float()
    with adapted.adapters.merged():
        assert torch.equal(wrapper.weight, exact.bfloat16())


def test_an_error_inside_merged_still_unmerges(adapt):
    adapted = adapt("bert", "lora")
    before = next(iter(adapted.adapters.layers.values())).weight.detach().clone()

    def fail():
        with adapted.adapters.merged():
            assert not torch.equal(next(iter(adapted.adapters.layers.values())).weight, before)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert torch.equal(next(iter(adapted.adapters.layers.values())).weight, before)
    assert not adapted.adapters.is_merged


def test_an_error_while_merging_leaves_nothing_merged(adapt):
    adapted = adapt("bert", "lora")
    list(adapted.adapters.layers.values())[3].adapters()[0].delta = lambda: torch.zeros(1, 2, 3)

    def enter():
        with adapted.adapters.merged():
            pytest.fail("merged in spite of a wrong delta")

    with pytest.raises(RuntimeError):
        enter()
    assert not adapted.adapters.is_merged


def test_wrong_order_is_refused(adapt):
    adapters = adapt("bert", "lora").adapters
    with pytest.raises(RuntimeError, match="not merged"):
        adapters.unmerge()
    adapters.merge()
    with pytest.raises(RuntimeError, match="merged already"):
        adapters.merge()
    adapters.unmerge()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_merging_for_evaluation_does_not_disturb_training(mode, adapt):
    adapted = adapt("bert", "nola-dense")
    expected = zoo.gradients(
        zoo.logits(adapted.model).square().sum(), adapted.adapters.adapter_parameters()
    )
    with mode(), adapted.adapters.merged():
        zoo.logits(adapted.model)
    actual = zoo.gradients(
        zoo.logits(adapted.model).square().sum(), adapted.adapters.adapter_parameters()
    )
    assert all(torch.equal(actual[n], expected[n]) for n in expected)


def test_embeddings_stay_tied():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0
        )
        model = GPT2LMHeadModel(config).eval()
    adapters = inject(model, LoRA(targets=["q", "fc1"]))
    zoo.perturb(adapters.adapter_parameters())
    assert model.lm_head.weight is model.transformer.wte.weight
    with adapters.merged():
        assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()


class TiedLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(2))
        nn.init.normal_(self.blocks[0][0].weight, generator=torch.Generator().manual_seed(0))
        self.blocks[1][0].weight = self.blocks[0][0].weight

    def forward(self, x):
        return self.blocks[1](self.blocks[0](x).tanh())


def test_two_adapted_layers_that_share_a_weight_are_not_merged():
    model = TiedLayers()
    adapters = inject(model, LoRA(rank=2, targets="all-linear"))
    zoo.perturb(adapters.adapter_parameters(), 0.5)
    x = torch.ones(3, 8)
    expected, weight = model(x), model.blocks[0][0].weight.detach().clone()
    with pytest.raises(RuntimeError, match="shares its weight"):
        adapters.merge()
    assert torch.equal(model(x), expected)
    assert torch.equal(model.blocks[0][0].weight, weight)
    assert torch.equal(model.blocks[1][0].weight, weight)


def test_a_merged_layer_costs_only_its_base(adapt, monkeypatch):
    adapted = adapt("bert", "lora")
    with adapted.adapters.merged():
        for wrapper in adapted.adapters.layers.values():
            assert isinstance(wrapper, AdaptedLinear)
            monkeypatch.setattr(
                wrapper.adapters()[0], "forward", lambda _: pytest.fail("computed the update")
            )
        zoo.logits(adapted.model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_that_is_cast_while_merged_comes_back_in_its_new_dtype(dtype):
    model = zoo.build("bert")
    adapters = inject(model, zoo.make("lora"))
    zoo.perturb(adapters.adapter_parameters())
    original = {name: layer.weight.detach().clone() for name, layer in adapters.layers.items()}
    with adapters.merged():
        model.to(dtype)
    for name, layer in adapters.layers.items():
        assert layer.weight.dtype == dtype
        assert torch.equal(layer.weight, original[name].to(dtype))
