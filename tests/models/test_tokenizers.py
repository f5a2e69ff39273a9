"""The fit of tokenizer and model: padding, tokens without an embedding, positions."""

import json

import pytest

from rlora.models.pretrained import load_pretrained, make_backbone
from rlora.models.random_init import random_model
from rlora.models.tokenizers import fit_tokenizer, number_of_positions

HEAD = {"kind": "classification", "num_labels": 2}
_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c"], "pooler_hidden_size": 32}
FAMILIES = {  # the longest input, None without a limit
    "bert": (_ENCODER, 64),
    "roberta": (_ENCODER | {"pad_token_id": 1}, 63),  # the byte tokenizer pads with 0
    "deberta-v2": (_ENCODER | _DEBERTA | {"position_biased_input": False}, None),
    "gpt2": ({"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 48}, 48),
    "llama": ({"num_key_value_heads": 1, **_ENCODER}, 64),
    "gpt_neox": (_ENCODER, 64),
    "opt": (_ENCODER | {"ffn_dim": 48, "word_embed_proj_dim": 32}, 64),
    "bloom": ({"hidden_size": 32, "n_layer": 1, "n_head": 2}, None),
}


@pytest.fixture
def decoder():
    """A GPT-2 with its tokenizer."""
    return random_model({"model_type": "gpt2", **FAMILIES["gpt2"][0]}, **HEAD, seed=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_maximum_length_is_that_of_the_positions(family):
    config, limit = FAMILIES[family]
    backbone = random_model({"model_type": family, **config}, **HEAD, seed=0)
    assert number_of_positions(backbone.model) == limit
    assert backbone.processor.model_max_length == (limit or 512)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "opt"])
def test_a_model_reads_as_many_tokens_and_no_more(family):
    config, limit = FAMILIES[family]
    backbone = random_model({"model_type": family, **config}, **HEAD, seed=0)
    batch = backbone.processor("a" * (limit - 2), return_tensors="pt")
    assert batch["input_ids"].shape[1] == limit
    backbone.model(input_ids=batch["input_ids"])
    longer = backbone.processor("a" * (limit - 1), return_tensors="pt", verbose=False)
    with pytest.raises((IndexError, RuntimeError)):
        backbone.model(input_ids=longer["input_ids"])


def test_max_length_above_the_positions_raises_before_the_data_is_read(
    build_task, decoder, tmp_path
):
    for name, path in (("rte", tmp_path / "nowhere"), ("e2e", tmp_path / "nowhere")):
        task = build_task(name, path=str(path), max_length=49)
        with pytest.raises(ValueError, match=r"task\.max_length=49 is more than the 48 tokens"):
            task.setup(decoder.processor, seed=0, cache_dir=tmp_path)


def test_a_tokenizer_without_a_limit_gets_that_of_the_model(decoder):
    decoder.processor.model_max_length = int(1e30)
    fit_tokenizer(decoder.processor, decoder.model, "here")
    assert decoder.processor.model_max_length == 48
    decoder.processor.model_max_length = 20
    fit_tokenizer(decoder.processor, decoder.model, "here")
    assert decoder.processor.model_max_length == 20


@pytest.mark.parametrize("token", ["pad_token", "eos_token", "cls_token"])
def test_a_special_token_outside_the_embedding_raises(decoder, tmp_path, token):
    decoder.model.save_pretrained(tmp_path)
    setattr(decoder.processor, token, "[OUTSIDE]")
    decoder.processor.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=rf"{token} '\[OUTSIDE\]' with id 260, .* 0\.\.259"
    ) as caught:
        load_pretrained(str(tmp_path), **HEAD, seed=0)
    assert len(str(caught.value).splitlines()) == 1


def test_an_added_token_outside_the_embedding_raises(decoder):
    decoder.processor.add_tokens(["<slot>"])
    with pytest.raises(ValueError, match="the token '<slot>' with id 260"):
        make_backbone(decoder.model, decoder.processor, "here", [])
    decoder.model.resize_token_embeddings(len(decoder.processor))
    make_backbone(decoder.model, decoder.processor, "here", [])


def test_a_special_token_that_no_text_contains_may_be_outside(decoder):
    decoder.processor.add_special_tokens({"additional_special_tokens": ["<image>"]})
    make_backbone(decoder.model, decoder.processor, "here", [])


def test_nothing_to_pad_with_raises(decoder, tmp_path):
    decoder.model.save_pretrained(tmp_path)
    decoder.processor.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in facts.items() if k != "pad_token"}))
    with pytest.raises(ValueError, match="neither a pad_token nor an eos_token to pad with"):
        load_pretrained(str(tmp_path), **HEAD, seed=0)
