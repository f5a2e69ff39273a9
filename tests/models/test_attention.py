"""Every model that supports it uses PyTorch's fused attention."""

import pytest
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


def test_every_config_sets_fused_attention_except_deberta(compose, root):
    for file in sorted((root / "conf" / "model").glob("*.yaml")):
        node = compose(f"model={file.stem}").config["model"]
        if "attention" in node:
            assert node["attention"] == ("eager" if file.stem == "deberta_v3_base" else "sdpa")
