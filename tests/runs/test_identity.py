"""The identity of a run: every file that it reads counts, wherever the config names it."""

import json
from pathlib import Path

import pytest

from rlora.runs.plan import resolve


@pytest.fixture
def inputs(tiny_job, tmp_path):
    """Function (*overrides): the digests of a run's inputs."""

    def of(*overrides):
        return resolve(*tiny_job(*overrides, folder=tmp_path / "run")).identity.inputs

    return of


def test_a_run_reads_its_data(inputs, tmp_path, small_lexicon):
    file = tmp_path / "lexicon.txt"
    file.write_text(small_lexicon.read_text())
    before = inputs(f"task.path='{file}'")
    assert list(before) == ["data"]
    file.write_text(small_lexicon.read_text() + "\n")
    assert inputs(f"task.path='{file}'") != before


@pytest.mark.parametrize(
    ("section", "overrides"),
    [
        ("model", ["model=minilm", "model._target_=rlora.models.pretrained.load_pretrained"]),
        ("adapter", ["adapter=peft"]),
    ],
)
def test_a_folder_that_the_config_names_counts(inputs, tmp_path, section, overrides):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["query"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    overrides = [*overrides, f"+{section}.path='{folder}'"]
    before = inputs(*overrides)
    assert set(before) == {"data", section}
    (folder / "model.safetensors").write_bytes(b"2")
    after = inputs(*overrides)
    assert after[section] != before[section]
    assert after["data"] == before["data"]


def test_a_file_below_the_data_folder_counts(inputs, tmp_path, monkeypatch):
    (tmp_path / "e2e").mkdir()
    corpus = tmp_path / "e2e" / "trainset.csv"
    corpus.write_text("mr,ref\n")
    monkeypatch.setenv("RLORA_DATA", str(tmp_path))
    before = inputs("model=gpt2_mini")
    corpus.write_text("ref,mr\n")
    assert inputs("model=gpt2_mini")["model"] != before["model"]


def test_a_hub_id_names_no_file(inputs):
    assert list(inputs("model=roberta_base")) == ["data"]


def test_the_saved_run_counts(inputs, tiny_run, tmp_path):
    first = tmp_path / "first"
    tiny_run("adapter=lora", folder=first)
    evaluation = ("train=false", f"ckpt_path='{first}'")
    before = inputs(*evaluation)
    assert set(before) == {"data", "checkpoint"}
    (first / "train.log").write_text("more")
    assert inputs(*evaluation) == before
    head = Path(first / "adapter" / "head.safetensors")
    head.write_bytes(head.read_bytes()[:-1] + b"\1")
    assert inputs(*evaluation)["checkpoint"] != before["checkpoint"]
