"""The five scores on outputs of published systems, against those of the official scorer."""

import csv
import functools
import os
import shutil
from pathlib import Path

import pytest

from rlora.metrics import captions, nlg, ptb
from rlora.metrics.__main__ import main
from rlora.metrics.files import read_pairs

SYSTEMS = ("tgen", "sheff1", "tnt1", "zhaw1")
java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java")
library = pytest.mark.skipif(not captions.installed(), reason="the extra nlg is not installed")
cached_tokens = functools.cache(ptb.tokens)


@pytest.fixture(autouse=True)
def references_tokenized_once(monkeypatch):
    """All tests score against the same 4,693 references."""
    monkeypatch.setattr(captions, "tokens", cached_tokens)


@pytest.fixture(scope="module")
def start_meteor():
    """METEOR's Java process, started once: it needs more time to start than to score a system."""
    return functools.cache(captions._meteor)


@pytest.fixture
def shared_meteor(start_meteor, monkeypatch):
    monkeypatch.setattr(captions, "_meteor", start_meteor)


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.fixture(scope="module")
def e2e():
    return Path(os.environ["RLORA_DATA"]) / "e2e"


@pytest.fixture(scope="module")
def official(e2e):
    lines = (e2e / "system_outputs" / "official_scores.tsv").read_text().splitlines()
    return {row["system"]: row for row in csv.DictReader(lines[1:], delimiter="\t")}


def scores_of(e2e, path):
    rows, references = read_pairs(e2e / "system_outputs" / path, e2e / "testset_w_refs.csv")
    return nlg.score([row.text for row in rows], references)


@pytest.mark.data
@library
@java
@pytest.mark.parametrize("system", SYSTEMS)
def test_all_scores_equal_the_official_ones_to_four_decimals(e2e, official, shared_meteor, system):
    scores = scores_of(e2e, f"primary/{system}.tsv")
    assert {name: f"{value:.4f}" for name, value in scores.values.items()} == {
        name: official[system][name] for name in nlg.NAMES
    }
    assert not scores.missing


@pytest.mark.data
@library
def test_without_java_only_meteor_is_missing(e2e, official, no_java):
    scores = scores_of(e2e, "primary/tgen.tsv")
    assert list(scores.values) == ["BLEU", "NIST", "ROUGE_L", "CIDEr"]
    assert all(f"{value:.4f}" == official["tgen"][name] for name, value in scores.values.items())
    assert "no java" in scores.missing["METEOR"]


@pytest.mark.data
@library
@java
@pytest.mark.parametrize("name", ["Primary-Sys1", "Sys1-Model1"])
def test_each_sentence_has_its_published_score(e2e, shared_meteor, name):
    path = e2e / "system_outputs" / "segscores" / f"{name}.segscores.tsv"
    lines = path.read_text().splitlines()
    published = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows, references = read_pairs(path, e2e / "testset_w_refs.csv")
    assert [row.text for row in rows] == [row["sys_out"] for row in published]
    segments = captions.score([row.text for row in rows], references).segments
    assert set(segments) == set(captions.NAMES)
    for metric, values in segments.items():
        assert [f"{value:.4f}" for value in values] == [row[metric] for row in published]


def test_without_the_extra_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(captions, "installed", lambda: False)
    scores = nlg.score(["a b c"], [["a b c"]])
    assert list(scores.values) == ["BLEU", "NIST"]
    assert set(scores.missing) == {"METEOR", "ROUGE_L", "CIDEr"}
    assert "rlora[nlg]" in scores.missing["CIDEr"]


@pytest.mark.data
def test_the_command_line_scores_files(e2e, tmp_path, capsys, no_java):
    missing, outputs = tmp_path / "none.tsv", e2e / "system_outputs" / "primary" / "tgen.tsv"
    references = e2e / "testset_w_refs.csv"
    code = main([str(missing), str(outputs), "--references", str(references)])
    shown = capsys.readouterr()
    assert code == 1
    assert "0.6593" in shown.out
    assert "8.6094" in shown.out
    assert "METEOR not computed: " in shown.out
    assert f"error: {missing} cannot be read" in " ".join(shown.err.split())


@library
def test_an_undefined_score_is_missing(no_java):
    one = nlg.score(["a b"], [["a b"]])
    assert "CIDEr" not in one.values
    assert "there is one segment" in one.missing["CIDEr"]
    wordless = nlg.score([".", "a"], [["."], ["a"]])
    assert set(wordless.values) == {"BLEU", "NIST"}
    assert set(wordless.missing.values()) == {"segment 1 has no reference with a word in it"}


@library
def test_empty_outputs_score_0(no_java):
    values = nlg.score(["", ""], [["a b"], ["c d"]]).values
    assert values == {"BLEU": 0.0, "NIST": 0.0, "ROUGE_L": 0.0, "CIDEr": 0.0}
