"""The five scores against the official scorer's on outputs of systems that were not written here."""

import csv
import os
import shutil
from pathlib import Path

import pytest

from rlora.metrics import captions, nlg
from rlora.metrics.__main__ import main
from rlora.metrics.files import read_pairs

SYSTEMS = ("tgen", "sheff1", "tnt1", "zhaw1")
java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java")
library = pytest.mark.skipif(not captions.installed(), reason="the extra nlg is not installed")


@pytest.fixture(scope="module")
def e2e():
    return Path(os.environ["RLORA_DATA"]) / "e2e"


@pytest.fixture(scope="module")
def official(e2e):
    lines = (e2e / "system_outputs" / "official_scores.tsv").read_text().splitlines()
    return {row["system"]: row for row in csv.DictReader(lines[1:], delimiter="\t")}


def scores_of(e2e, path):
    found, sought = read_pairs(e2e / "system_outputs" / path, e2e / "testset_w_refs.csv")
    return nlg.score([row.text for row in found], sought)


@pytest.mark.data
@library
@java
@pytest.mark.parametrize("system", SYSTEMS)
def test_all_five_to_the_fourth_decimal(e2e, official, system):
    scores = scores_of(e2e, f"primary/{system}.tsv")
    assert {name: f"{value:.4f}" for name, value in scores.values.items()} == {
        name: official[system][name] for name in nlg.NAMES
    }
    assert not scores.missing


@pytest.mark.data
@library
def test_without_java_only_meteor_is_missing(e2e, official, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    scores = scores_of(e2e, "primary/tgen.tsv")
    assert list(scores.values) == ["BLEU", "NIST", "ROUGE_L", "CIDEr"]
    assert all(f"{value:.4f}" == official["tgen"][name] for name, value in scores.values.items())
    assert "no java" in scores.missing["METEOR"]


@pytest.mark.data
@library
@java
@pytest.mark.parametrize("name", ["Primary-Sys1", "Sys1-Model1"])
def test_each_sentence_has_its_published_score(e2e, name):
    path = e2e / "system_outputs" / "segscores" / f"{name}.segscores.tsv"
    rows = list(
        csv.DictReader(path.read_text().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    found, sought = read_pairs(path, e2e / "testset_w_refs.csv")
    assert [row.text for row in found] == [row["sys_out"] for row in rows]
    each = captions.score([row.text for row in found], sought).each
    assert set(each) == set(captions.NAMES)
    for metric, values in each.items():
        assert [f"{value:.4f}" for value in values] == [row[metric] for row in rows]


def test_without_the_extra_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(captions, "installed", lambda: False)
    scores = nlg.score(["a b c"], [["a b c"]])
    assert list(scores.values) == ["BLEU", "NIST"]
    assert set(scores.missing) == {"METEOR", "ROUGE_L", "CIDEr"}
    assert "rlora[nlg]" in scores.missing["CIDEr"]


@pytest.mark.data
def test_files_are_scored_from_the_command_line(e2e, tmp_path, capsys):
    missing = tmp_path / "none.tsv"
    code = main(
        [
            str(missing),
            str(e2e / "system_outputs/primary/tgen.tsv"),
            "--references",
            str(e2e / "testset_w_refs.csv"),
        ]
    )
    shown = capsys.readouterr()
    assert code == 1
    assert "0.6593" in shown.out
    assert "8.6094" in shown.out
    assert f"error: {missing} cannot be read" in " ".join(shown.err.split())
