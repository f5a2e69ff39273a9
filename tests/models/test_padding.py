"""The answer to a row does not depend on the rows around it, on either padding side."""

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from rich.console import Console

from rlora.adapters import inject
from rlora.adapters.lora import LoRA
from rlora.data.collate import EncodedSplit, PaddingCollator
from rlora.data.examples import Examples
from rlora.data.packing import SequenceCollator
from rlora.data.tokenize import tokenize
from rlora.evaluation.generate import Generator
from rlora.models.random_init import random_model
from rlora.tasks.base import GenerationConfig

_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 32}
_LLAMA = {"num_key_value_heads": 1, **_ENCODER}
ENCODERS = {
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "deberta-v2": _ENCODER | _DEBERTA,
}
DECODERS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": _LLAMA,
    "mistral": _LLAMA | {"sliding_window": 8},
    "qwen2": _LLAMA,
    "gpt_neox": _ENCODER,
    "opt": _ENCODER | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
}
FAMILIES = ENCODERS | DECODERS
PAD_IN_TEXT = "good[PAD]news[PAD]"
TEXTS = ["good", "a much longer sentence than the others", "", PAD_IN_TEXT, "[PAD]", "fine film"]


def build(family, kind="classification", *, pad_is_end=False, side="left"):
    backbone = random_model(
        {"model_type": family, **FAMILIES[family]}, kind=kind, num_labels=3, seed=0
    )
    tokenizer, config = backbone.processor, backbone.model.config
    tokenizer.padding_side = side
    if pad_is_end:
        tokenizer.pad_token = tokenizer.sep_token
        config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    for parameter in backbone.model.parameters():  # the start values hide differences
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    backbone.model.eval()
    return backbone


@torch.no_grad()
def logits(backbone, texts):
    tokens = tokenize(
        Examples([(text,) for text in texts]), backbone.processor, max_length=60, label="rows"
    )
    split = EncodedSplit(tokens, None)
    batch = PaddingCollator.of(backbone.processor)([split[row] for row in range(len(texts))])
    return backbone.model(**batch["inputs"]).logits


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad_is_end", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_has_the_same_logits_alone_and_among_others(family, pad_is_end, side):
    backbone = build(family, pad_is_end=pad_is_end, side=side)
    texts = [text.replace("[PAD]", backbone.processor.pad_token) for text in TEXTS]
    together = logits(backbone, texts)
    alone = torch.cat([logits(backbone, [text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_empty_text_without_special_tokens_has_an_answer(family):
    backbone = build(family)
    backbone.processor.backend_tokenizer.post_processor = None
    assert backbone.processor("")["input_ids"] == []
    together = logits(backbone, ["", "a longer row"])
    torch.testing.assert_close(together[:1], logits(backbone, [""]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", DECODERS)
def test_a_text_has_the_same_token_logits_alone_and_among_others(family):
    backbone = build(family, kind="text")
    rows = [np.array(backbone.processor(text)["input_ids"]) for text in TEXTS]
    collate = SequenceCollator(backbone.processor.pad_token_id)

    def run(members):
        batch = collate([{"input_ids": ids, "labels": ids, "index": 0} for ids in members])
        return backbone.model(**batch["inputs"]).logits

    for ids, padded in zip(rows, run(rows), strict=True):
        torch.testing.assert_close(padded[: len(ids)], run([ids])[0], atol=1e-5, rtol=1e-5)


class Spelling:
    """The part of a task that a generator uses."""

    def __init__(self, end, beams):
        self.generation = GenerationConfig(
            max_new_tokens=8, end_token=end, beams=beams, no_repeat_ngram_size=3
        )

    def decode_text(self, ids):
        end = self.generation.end_token
        return " ".join(map(str, ids[: ids.index(end)] if end in ids else ids))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("pad_is_end", [False, True])
@pytest.mark.parametrize("family", DECODERS)
def test_a_prompt_has_the_same_text_alone_and_among_others(family, pad_is_end, beams):
    backbone = build(family, kind="text", pad_is_end=pad_is_end)
    targets = "all-linear"
    generator = Generator(
        inject(backbone.model, LoRA(rank=2, targets=targets)),
        Spelling(backbone.processor.sep_token_id, beams),
        device=torch.device("cpu"),
        precision=Precision(),
        console=Console(quiet=True),
    )
    texts = [text.replace("[PAD]", backbone.processor.pad_token) for text in TEXTS if text]
    prompts = [backbone.processor(text, add_special_tokens=False)["input_ids"] for text in texts]
    with generator.ready():
        together = generator.generate_batch(prompts)
        assert together == [generator.generate_batch([prompt])[0] for prompt in prompts]
    assert len(set(together)) > 1
