"""The lexicon task: words, labels, splits and errors."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rlora.tasks.lexicon import lexicon_file, read_lexicon


@pytest.fixture(scope="module")
def words():
    return read_lexicon(lexicon_file())


def test_words_and_labels(words):
    assert "vaderSentiment" not in sys.modules
    assert len(words) == len(set(words.texts)) == 7174
    assert Counter(words.labels) == {0: 4020, 1: 3154}
    polarity = dict(zip(words.texts, words.labels, strict=True))
    assert (polarity[("good",)], polarity[("awful",)]) == (1, 0)
    published = {}
    origin = importlib.util.find_spec("vaderSentiment").origin
    for line in (
        (Path(origin).parent / "vader_lexicon.txt").read_text(encoding="utf-8").splitlines()
    ):
        published.setdefault(line.split("\t")[0].lower(), float(line.split("\t")[1]))
    assert all((published[text] > 0) == bool(label) for (text,), label in polarity.items())


def test_splits_are_fixed_and_disjoint(build_task, tokenizer, tmp_path):
    np.random.seed(1)  # noqa: NPY002
    task, other = build_task("lexicon"), build_task("lexicon")
    task.setup(tokenizer, seed=0, cache_dir=tmp_path)
    np.random.seed(2)  # noqa: NPY002
    other.setup(tokenizer, seed=7, cache_dir=tmp_path)
    assert task.describe()["rows"] == {"train": 5000, "validation": 1087, "test": 1087}
    assert task.fingerprint == other.fingerprint
    splits = task.read()
    texts = [text for examples in splits.values() for text in examples.texts]
    assert len(texts) == len(set(texts)) == 7174
    assert build_task("lexicon", split_seed=1).read()["test"].digest != splits["test"].digest
    assert task.describe()["location"].startswith("vaderSentiment==")
    assert task.predict_loaders() == {}
    assert max(split.lengths.max() for split in task.prepared.splits.values()) < 16


def test_few_shot_keeps_the_test_set(build_task, tokenizer, tmp_path):
    task = build_task("lexicon", shots=8)
    task.setup(tokenizer, seed=0, cache_dir=tmp_path)
    assert task.describe()["rows"] == {"train": 16, "validation": 16, "test": 1087}


def test_case_zero_sums_and_short_entries(tmp_path):
    rows = [
        "Fine\t1\t1\t[1, 2]",
        "fine\t1\t1\t[-1, -1]",
        "flat\t0\t1\t[1, -1]",
        "xd\t2\t0\t[2, 2]",
        ":)\t2\t0\t[2, 2]",
    ]
    file = tmp_path / "vader_lexicon.txt"
    file.write_text("\n".join(rows) + "\n")
    examples = read_lexicon(lexicon_file(tmp_path))
    assert (examples.texts, examples.labels) == ([("fine",)], [1])
    file.write_text("good\t1\n")
    with pytest.raises(ValueError, match=r"vader_lexicon\.txt, line 1: 2 columns, expected word"):
        read_lexicon(file)
    file.write_text("good\t1\t1\t[NaN]\n")
    with pytest.raises(ValueError, match=r"line 1: .* a list of ratings"):
        read_lexicon(file)
    file.write_bytes(b"\xef\xbb\xbffine\t1\t1\t[1]\r\ncaf\xe9\t1\t1\t[1]\r\n")
    with pytest.raises(ValueError, match=r"line 2: byte 4 of the line \(0xe9\) is not UTF-8"):
        read_lexicon(file)


def test_invalid_settings_raise(build_task):
    with pytest.raises(ValueError, match=r"task\.train_size=7173 of 7174 words .* to at most 7172"):
        build_task("lexicon", train_size=7173).read()
    with pytest.raises(ValueError, match=r"task\.validation=dev has no effect on lexicon"):
        build_task("lexicon", validation="dev")
    with pytest.raises(ValueError, match=r"set task\.path"):
        build_task("lexicon", path="/nowhere/at/all").read()


def test_labels_in_another_order_keep_their_words(build_task):
    usual, other = (
        build_task("lexicon", labels=labels)
        for labels in (["negative", "positive"], ["Positive", "Negative"])
    )
    for name, examples in usual.read().items():
        turned = other.read()[name]
        assert turned.texts == examples.texts
        assert [1 - label for label in turned.labels] == list(examples.labels)
    renamed = build_task("lexicon", labels=["bad", "good"])
    assert renamed.read()["test"].labels == usual.read()["test"].labels
