"""Treebank tokens: examples, and the Stanford tokenizer as the reference where Java exists."""

import csv
import os
import shutil
from pathlib import Path

import pytest

from rlora.metrics import captions
from rlora.metrics.ptb import tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Blue Spice isn't a coffee-shop.", "blue spice is n't a coffee-shop"),
        ("It's £20-25 (5 out of 5)!", "it 's # 20-25 -lrb- 5 out of 5 -rrb-"),
        ("a price range of £20-£25", "a price range of # 20 # 25"),
        ("near 20 -25 and 20£-25", "near 20 -25 and 20 # -25"),
        (
            "family-friendly,cheap and cheap,kid-friendly",
            "family-friendly cheap and cheap,kid-friendly",
        ),
        ("The Rice Boat.It is 5.It is", "the rice boat.it is 5 it is"),
        ("city center., near Dr. Who's St. John", "city center. near dr. who 's st. john"),
        ("10.50 1,000 2.30pm 30lb 3rd", "10.50 1,000 2.30 pm 30lb 3rd"),
        ("cannot gonna 'tis I'd've customers'", "can not gon na 't is i 'd 've customers"),
        ("“quoted” ‘so’ it’s don’t", "quoted so it 's do n't"),
        ("Café A&E B & B €5 or 1/2 ½", "café a&e b & b $ 5 or 1/2 1/2"),
        ("hello!! what?! no... -- –", "hello !! what ?! no"),
        ("o'clock O'Brien's rock'n'roll", "o'clock o'brien 's rock 'n' roll"),
        ("", ""),
    ],
)
def test_tokens(text, expected):
    assert tokens(text) == expected.split()


java = pytest.mark.skipif(shutil.which("java") is None, reason="the Stanford tokenizer needs Java")
library = pytest.mark.skipif(not captions.installed(), reason="the extra nlg is not installed")


def stanford(texts):
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    lines = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
    return [lines[i][0].split(" ") if lines[i][0] else [] for i in range(len(texts))]


def differing(texts):
    return [
        text
        for text, expected in zip(texts, stanford(texts), strict=True)
        if tokens(text) != expected
    ]


@pytest.fixture
def utf8(monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dfile.encoding=UTF-8")


@pytest.mark.data
@java
@library
def test_tokens_equal_the_stanford_tokenizer_on_e2e(utf8):
    folder = Path(os.environ["RLORA_DATA"]) / "e2e"
    texts = [
        " ".join(
            row[1].split()
        )  # one text has a line break, which the scorer's files cannot represent
        for name in ("trainset.csv", "devset.csv", "testset_w_refs.csv")
        for row in list(csv.reader((folder / name).open(encoding="utf-8-sig", newline="")))[1:]
    ]
    assert len(texts) == 51_426
    assert len(differing(texts)) <= 1


@pytest.mark.data
@java
@library
def test_tokens_differ_in_less_than_one_text_in_a_hundred_on_qnli(utf8):
    file = Path(os.environ["RLORA_DATA"]) / "glue" / "QNLI" / "dev.tsv"
    rows = file.read_text(encoding="utf-8").split("\n")[1:-1]
    texts = [field for row in rows for field in row.split("\t")[1:3] if field.isprintable()]
    assert len(texts) > 10_000
    assert len(differing(texts)) < 0.01 * len(texts)
