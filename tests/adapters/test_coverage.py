"""What "all-linear" leaves out is said, and no layer gets an update without an effect."""

import logging

import pytest
import torch
from torch import nn

from rlora.adapters import inject
from rlora.adapters.lora import LoRA
from rlora.adapters.peft import Peft
from rlora.models.random_init import random_model

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_moe": EXPERTS,
    "llama4_text": {"num_local_experts": 4},
}
TOKENS = torch.arange(20).reshape(2, 10) + 5
BOTH = [LoRA(rank=2, targets="all-linear"), Peft({"peft_type": "LORA", "r": 2})]


def decoder(family):
    config = {"model_type": family, **SMALL, **FAMILIES[family]}
    return random_model(config, kind="text", num_labels=0, seed=0).model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_says_which_share_it_leaves_out(family, caplog):
    net = decoder(family)
    experts = sum(p.numel() for p in net.parameters() if p.dim() == 3)
    routers = sum(
        p.numel()
        for n, p in net.named_parameters()
        if n.endswith(("mlp.gate.weight", "mlp.router.weight"))
    )
    total = sum(p.numel() for p in net.parameters())
    adapters = inject(net, LoRA(rank=2, targets="all-linear"))
    share = 100 * (experts + routers) / total
    assert f"all-linear leaves out {share:.0f} % of the model's parameters" in caplog.text
    assert "layers.*." in caplog.text
    assert ".experts.gate_up_proj" in caplog.text
    assert any(name.endswith("o_proj") for name in adapters.layers)
    with torch.no_grad():
        assert net(TOKENS).logits.isfinite().all()


@pytest.mark.parametrize("method", BOTH)
def test_gates_get_no_update_and_are_named(method, caplog):
    adapters = inject(decoder("qwen2_moe"), method)
    assert "all-linear leaves out the gates model.layers.*.mlp.shared_expert_gate" in caplog.text
    assert not any(name.endswith("gate") for name in adapters.layers)
    assert any("shared_expert.gate_proj" in name for name in adapters.layers)


def test_a_gate_that_is_named_explicitly_is_refused_with_the_limit():
    with pytest.raises(ValueError, match=r"min\(in, out\) = 1 of .*shared_expert_gate.*leave that"):
        inject(decoder("qwen2_moe"), LoRA(rank=2, targets=["shared_expert_gate"]))


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_roles_of_the_attention_fit_models_with_experts(family):
    adapters = inject(decoder(family), LoRA(rank=2, targets=["q", "v"]))
    assert len(adapters.layers) == 4


def test_a_dense_model_is_covered_without_a_word(fresh, caplog):
    caplog.set_level(logging.INFO, logger="rlora")
    for family in ("bert", "gpt2", "llama"):
        inject(fresh(family), LoRA(rank=2, targets="all-linear"))
    assert caplog.text == ""


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("padded", [False, True])
def test_an_encoder_of_torch_computes_the_updates_in_evaluation(method, padded):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 5, 16)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if padded else None
    adapters = inject(net, method)
    # attention reads the weight of its output layer and does not call it
    assert [name for name in adapters.layers if "attn" in name] == []
    with torch.no_grad():
        before = net(x, src_key_padding_mask=mask)
        for parameter in adapters.adapter_parameters().values():
            parameter += 0.1
        after = net(x, src_key_padding_mask=mask)
    assert not torch.allclose(before[0], after[0], atol=1e-2)
    expected = net.train()(x, src_key_padding_mask=mask)
    real = ~mask if padded else torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(after[real], expected[real], rtol=1e-4, atol=1e-5)
    expected[real].sum().backward()
    assert all(p.grad is not None for p in adapters.adapter_parameters().values())
    adapters.unwrap()
    assert not any(module._forward_hooks for module in net.modules())
