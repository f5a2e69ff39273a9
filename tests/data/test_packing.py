"""Prompts and texts as sequences: labels, padding, packing and truncation."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from rlora.data.packing import (
    IGNORED,
    PackingCollator,
    SequenceCollator,
    SequenceFormat,
    Sequences,
    pack,
)
from rlora.data.tokenize import Tokens
from rlora.models.pretrained import make_backbone
from rlora.models.random_init import byte_tokenizer

END = 9


def tokens(*rows):
    ids = np.asarray([token for row in rows for token in row], dtype=np.int32)
    return Tokens(ids, np.cumsum([0, *map(len, rows)], dtype=np.int64))


@pytest.fixture
def sequences():
    return Sequences(
        tokens([1, 2, 3], [4], []),
        tokens([5, 6], [7], [8, 8, 8]),
        SequenceFormat((0,), (END,), END),
        8,
    )


def test_labels_are_the_next_tokens_and_ignore_the_prompt(sequences):
    row = sequences[0]
    assert row["input_ids"].tolist() == [0, 1, 2, 3, END, 5, 6]
    assert row["labels"].tolist() == [IGNORED] * 4 + [5, 6, END]
    assert sequences[2]["input_ids"].tolist() == [0, END, 8, 8, 8]
    assert sequences[2]["labels"].tolist() == [IGNORED, 8, 8, 8, END]
    assert (
        sequences.lengths.tolist()
        == [len(sequences[i]["input_ids"]) for i in range(3)]
        == [7, 4, 5]
    )


def test_a_long_text_is_truncated_and_loses_its_end_token():
    truncated = Sequences(tokens([1, 2]), tokens([5, 6, 7, 8]), SequenceFormat((), (), END), 4)
    assert truncated[0]["input_ids"].tolist() == [1, 2, 5, 6]
    assert truncated[0]["labels"].tolist() == [IGNORED, 5, 6, 7]
    assert truncated.lengths.tolist() == [4]


def test_padding_has_no_loss_and_is_masked(sequences):
    batch = SequenceCollator(token=77)([sequences[i] for i in range(3)])
    assert {key: tuple(value.shape) for key, value in batch["inputs"].items()} == {
        "input_ids": (3, 7),
        "attention_mask": (3, 7),
    }
    assert (batch["labels"].shape, batch["index"].tolist()) == ((3, 7), [0, 1, 2])
    assert (batch["num_tokens"], batch["padded"]) == (16, True)
    outside = batch["inputs"]["attention_mask"] == 0
    assert (batch["inputs"]["input_ids"][outside] == 77).all()
    assert (batch["labels"][outside] == IGNORED).all()


def test_packing_loses_no_token(sequences):
    rows = [sequences[i] for i in range(3)]
    batch = PackingCollator(token=77, width=12)(rows)
    assert batch["inputs"]["input_ids"].shape == (2, 12)  # 7 + 5, and 4
    assert (batch["num_tokens"], batch["padded"], batch["index"].tolist()) == (16, False, [0, 1, 2])
    padded = SequenceCollator(token=77)(rows)
    assert sorted(batch["labels"][batch["labels"] >= 0]) == sorted(
        padded["labels"][padded["labels"] >= 0]
    )
    positions = [[*range(7), *range(5)], [*range(4), *range(8)]]
    assert batch["inputs"]["position_ids"].tolist() == positions


@pytest.mark.parametrize("seed", range(20))
def test_each_item_is_in_one_bin_and_no_bin_overflows(seed):
    lengths = np.random.default_rng(seed).integers(1, 30, 25).tolist()
    bins = pack(lengths, 30)
    assert sorted(item for members in bins for item in members) == list(range(25))
    assert all(sum(lengths[i] for i in members) <= 30 for members in bins)
    assert len(bins) <= 2 * -(-sum(lengths) // 30)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=300),
        LlamaConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            vocab_size=300,
        ),
    ],
    ids=["gpt2", "llama"],
)
def test_packed_examples_do_not_attend_to_each_other(config, attention):
    draw = np.random.default_rng(0)
    lengths = [11, 3, 7, 5, 9]
    texts = tokens(*(draw.integers(10, 50, length).tolist() for length in lengths))
    split = Sequences(tokens(*([[1, 2]] * 5)), texts, SequenceFormat((), (END,), END), 64)
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    make_backbone(net, byte_tokenizer(), "random", [])

    def losses(batch):
        out = net(**batch["inputs"]).logits
        losses = torch.nn.functional.cross_entropy(
            out.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses[batch["labels"].flatten() >= 0].sort().values

    rows = [split[i] for i in range(5)]
    packed = PackingCollator(token=0, width=30)(rows)
    assert len(packed["inputs"]["input_ids"]) == 2
    torch.testing.assert_close(
        losses(packed), losses(SequenceCollator(token=0)(rows)), rtol=1e-4, atol=1e-5
    )


def test_the_format_comes_from_the_tokenizer():
    tokenizer = byte_tokenizer()  # puts [CLS] before a text, and has [SEP] to end it
    assert SequenceFormat.of(tokenizer, end_after_prompt=False) == SequenceFormat(
        (tokenizer.cls_token_id,), (), tokenizer.sep_token_id
    )
    assert SequenceFormat.of(tokenizer, end_after_prompt=True).before_text([7]) == [
        tokenizer.cls_token_id,
        7,
        tokenizer.sep_token_id,
    ]
