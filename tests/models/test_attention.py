"""Every model that supports it uses PyTorch's fused attention."""

import pytest
import yaml
from torch.nn import functional

from rlora.config.build import build


@pytest.mark.parametrize("model", ["minilm", "tiny_encoder", "tiny_decoder"])
def test_a_model_calls_the_fused_function(compose, model, monkeypatch):
    backbone = build(
        compose(f"model={model}").config["model"], kind="classification", num_labels=2, seed=0
    )
    assert backbone.model.config._attn_implementation == "sdpa"
    calls, fused = [], functional.scaled_dot_product_attention

    def counted(*args, **options):
        calls.append(options)
        return fused(*args, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    backbone.model(**backbone.processor(["some words"], return_tensors="pt"))
    assert len(calls) == backbone.model.config.num_hidden_layers


def test_every_config_sets_fused_attention_except_deberta(root):
    files = sorted((root / "conf" / "model").glob("*.yaml"))
    attention = {file.stem: yaml.safe_load(file.read_text()).get("attention") for file in files}
    assert len([value for value in attention.values() if value]) > 8
    assert attention.pop("deberta_v3_base") == "eager"
    assert set(attention.values()) <= {"sdpa", None}
