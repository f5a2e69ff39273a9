"""Tokenization: the cache, its damages, and equality with direct calls of the tokenizer."""

import errno
import logging
import os
import time

import numpy as np
import pytest
import torch

from rlora.data import tokenize
from rlora.data.collate import EncodedSplit, PaddingCollator
from rlora.data.examples import Examples
from rlora.data.tokenize import cached_tokens, tokenizer_identity

PAIRS = Examples(
    [(f"the cat number {i} sat " + "down " * (i % 7), f"on mat {i}") for i in range(50)], [0] * 50
)


def cached(examples, tokenizer, folder, max_length=32):
    identity = tokenizer_identity(tokenizer)
    return cached_tokens(
        examples, tokenizer, identity=identity, max_length=max_length, label="t", cache_dir=folder
    )


@pytest.fixture
def count(monkeypatch):
    calls = []
    original = tokenize.tokenize
    monkeypatch.setattr(tokenize, "tokenize", lambda *a, **k: calls.append(1) or original(*a, **k))
    return calls


def test_second_start_reads_the_cache(tokenizer, tmp_path, count):
    first = cached(PAIRS, tokenizer, tmp_path)
    second = cached(PAIRS, tokenizer, tmp_path)
    assert len(count) == 1
    assert all((first.arrays()[name] == array).all() for name, array in second.arrays().items())
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_key_covers_texts_length_and_tokenizer(tokenizer, tmp_path, count):
    cached(PAIRS, tokenizer, tmp_path)
    cached(PAIRS, tokenizer, tmp_path, max_length=16)
    cached(PAIRS.take(range(49)), tokenizer, tmp_path)
    assert len(count) == 3
    identity = tokenizer_identity(tokenizer)
    tokenizer("a call changes the truncation of the backend", truncation=True, max_length=5)
    assert tokenizer_identity(tokenizer) == identity


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "junk"])
def test_a_damaged_cache_file_is_rebuilt(tokenizer, tmp_path, count, caplog, damage):
    good = cached(PAIRS, tokenizer, tmp_path)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    flipped = bytes(data[:-3]) + bytes([data[-3] ^ 1]) + bytes(data[-2:])
    path.write_bytes(
        {"truncated": bytes(data[:-9]), "flipped": flipped, "empty": b"", "junk": b"x" * 99}[damage]
    )
    with caplog.at_level(logging.WARNING):
        again = cached(PAIRS, tokenizer, tmp_path)
    assert len(count) == 2
    assert "rebuilding it" in caplog.text
    assert (again.input_ids == good.input_ids).all()
    assert path.read_bytes() == bytes(data)


def test_a_killed_write_leaves_no_cache(tokenizer, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        cached(PAIRS, tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_stop_the_run(tokenizer, tmp_path, monkeypatch, caplog):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert len(cached(PAIRS, tokenizer, tmp_path).lengths) == 50
    assert "continuing without it" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "examples", [PAIRS, Examples([(f"word {'long ' * (i % 9)}",) for i in range(20)])]
)
def test_batches_equal_direct_calls_of_the_tokenizer(tokenizer, tmp_path, examples):
    split = EncodedSplit(cached(examples, tokenizer, tmp_path, 14), examples.label_array(2))
    collate = PaddingCollator(tokenizer.pad_token_id, tokenizer.pad_token_type_id)
    rows = [5, 3, 13, 7]
    batch = collate([split[row] for row in rows])
    fields = [list(column) for column in zip(*(examples.texts[row] for row in rows), strict=True)]
    expected = tokenizer(
        *fields,
        truncation=True,
        max_length=14,
        padding="longest",
        padding_side="right",
        return_tensors="pt",
    )
    for name, tensor in expected.items():
        assert batch["inputs"][name].dtype == torch.int64
        assert torch.equal(batch["inputs"][name], tensor), name
    assert batch["index"].tolist() == rows
    assert ("labels" in batch) == (examples.labels is not None)


def test_without_a_padding_token_the_end_of_text_token_pads():
    class Bare:
        pad_token_id = None
        eos_token_id = 50256
        pad_token_type_id = 0

    assert PaddingCollator.of(Bare()).token == 50256
    Bare.eos_token_id = None
    with pytest.raises(
        ValueError, match=r"Bare has no token for padding \(pad_token or eos_token\)"
    ):
        PaddingCollator.of(Bare())


def test_label_errors():
    with pytest.raises(ValueError, match=r"Label 2 is outside 0\.\.1"):
        Examples([("a",)], [2]).label_array(2)
    with pytest.raises(ValueError, match="not a finite number"):
        Examples([("a",)], [float("nan")]).label_array(None)
    assert Examples([("a",)], [1]).label_array(2).dtype == np.int64
    assert Examples([("a",)], [1.5]).label_array(None).dtype == np.float32


def test_the_cache_of_many_rows_loads_quickly(tokenizer, tmp_path):
    examples = Examples([(f"sentence number {i} of a longer set",) for i in range(20_000)])
    cached(examples, tokenizer, tmp_path)
    start = time.perf_counter()
    cached(examples, tokenizer, tmp_path)
    assert time.perf_counter() - start < 1.0
