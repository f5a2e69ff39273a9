"""What ckpt_path may name, and the config that comes back with it."""

import json

import pytest
import torch
import yaml

from rlora.adapters import checkpoint
from rlora.config.allowlist import CONFIG_FORMAT, saved_config
from rlora.runs.resume import Saved, bring, find_saved, read_checkpoint
from rlora.training.module import CHECKPOINT_FORMAT

CARD = {"format": checkpoint.FORMAT, "method": {}, "backbone": {}, "sha256": {}}
SAVED = {
    "format": CONFIG_FORMAT,
    "choices": {"task": "rte", "model": "tiny_encoder", "adapter": "lora", "regularizer": "none"},
    "model": {"path": "saved"},
    "task": {"name": "rte", "batch_size": 8, "dev": {"test": {"file": "dev.tsv"}}},
    "adapter": {"rank": 4, "alpha": 8},
    "seed": 3,
    "regularizer": {"weight": 1},
    "optimizer": {"lr": 0.5},
    "scheduler": {"shape": "cosine"},
    "trainer": {
        "max_epochs": 9,
        "accelerator": "gpu",
        "devices": 4,
        "strategy": "ddp",
        "default_root_dir": "old",
    },
    "paths": {"outputs": "old"},
    "test": False,
}
HEADER = {"format": CHECKPOINT_FORMAT, "config": SAVED}
COMPOSED = {
    "model": {"path": "here"},
    "task": {"name": "lexicon", "batch_size": 32, "dev": {"test": {"file": "other.tsv"}}},
    "adapter": {"rank": 8, "alpha": 16, "core": False},
    "seed": 0,
    "regularizer": {"weight": 2},
    "optimizer": {"lr": 0.1},
    "scheduler": {"shape": "linear"},
    "trainer": {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": "new",
        "precision": "32",
    },
    "paths": {"outputs": "new"},
    "test": True,
}
CHOICES = {
    "task": "lexicon",
    "model": "minilm",
    "adapter": "rlora",
    "regularizer": "none",
    "trainer": "cpu",
}


def write_checkpoint(file, state=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"rlora": HEADER, "state_dict": {}} if state is None else state, file)
    return file


def write_adapter(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / checkpoint.MANIFEST).write_text(json.dumps({**CARD, "config": SAVED}))
    return folder


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(SAVED))
    return folder


# find_saved


def test_a_run_is_evaluated_from_its_adapter(run_folder):
    write_adapter(run_folder / "adapter")
    write_checkpoint(run_folder / "checkpoints" / "best.ckpt")
    write_checkpoint(run_folder / "checkpoints" / "last.ckpt")
    found = find_saved(str(run_folder), resume=False)
    assert found == Saved(run_folder, run_folder / "adapter", None, SAVED)


def test_a_run_is_resumed_from_its_last_checkpoint(run_folder):
    write_adapter(run_folder / "adapter")
    write_checkpoint(run_folder / "checkpoints" / "best.ckpt")
    last = write_checkpoint(run_folder / "checkpoints" / "last.ckpt")
    assert find_saved(str(run_folder), resume=True) == Saved(run_folder, None, last, SAVED)


def test_an_unfinished_run_is_evaluated_from_its_best_checkpoint(run_folder):
    best = write_checkpoint(run_folder / "checkpoints" / "best.ckpt")
    write_checkpoint(run_folder / "checkpoints" / "last.ckpt")
    assert find_saved(str(run_folder), resume=False) == Saved(run_folder, None, best, SAVED)


@pytest.mark.parametrize("resume", [True, False])
def test_an_adapter_folder(tmp_path, resume):
    folder = write_adapter(tmp_path / "anything")
    assert find_saved(str(folder), resume=resume) == Saved(folder, folder, None, SAVED)


@pytest.mark.parametrize("resume", [True, False])
def test_a_checkpoint_file(tmp_path, resume):
    file = write_checkpoint(tmp_path / "epoch.ckpt")
    assert find_saved(str(file), resume=resume) == Saved(file, None, file, SAVED)


def test_the_home_folder_is_found(run_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(run_folder.parent))
    write_checkpoint(run_folder / "checkpoints" / "last.ckpt")
    assert find_saved("~/run", resume=True).path == run_folder


def refused(path, resume=False):
    with pytest.raises(ValueError, match=r"\S") as caught:
        find_saved(str(path), resume=resume)
    told = str(caught.value)
    assert len(told.splitlines()) == 1
    return told


@pytest.mark.parametrize("resume", [True, False])
def test_nonsense(tmp_path, resume):
    for path in (tmp_path, tmp_path / "nowhere"):
        told = refused(path, resume)
        assert told.startswith(f"ckpt_path={path}")
        assert all(word in told for word in ("config.yaml", "adapter.json", ".ckpt"))


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_stopped_before_its_first_epoch(run_folder, resume):
    told = refused(run_folder, resume)
    assert "before its first epoch" in told
    assert ("last.ckpt" in told) == resume


def test_a_run_without_checkpoints_cannot_be_resumed(run_folder):
    write_adapter(run_folder / "adapter")
    assert "last.ckpt" in refused(run_folder, resume=True)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04cut"])
def test_a_damaged_checkpoint(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    assert "a.ckpt" in refused(tmp_path / "a.ckpt")


def test_a_checkpoint_cut_short(tmp_path):
    file = write_checkpoint(tmp_path / "a.ckpt")
    file.write_bytes(file.read_bytes()[:-20])
    assert "damaged" in refused(file)


@pytest.mark.parametrize("state", [{"state_dict": {}}, [1], torch.zeros(2)])
def test_a_checkpoint_of_another_project(tmp_path, state):
    assert "not of this project" in refused(write_checkpoint(tmp_path / "a.ckpt", state))


@pytest.mark.parametrize(
    ("number", "message"),
    [(None, "was saved by rlora 0.1, which this version cannot load"), (3, "checkpoint format 3")],
)
def test_a_checkpoint_of_another_version_is_refused(tmp_path, number, message):
    header = {key: value for key, value in (HEADER | {"format": number}).items() if value}
    file = write_checkpoint(tmp_path / "a.ckpt", {"rlora": header, "state_dict": {}})
    assert message in refused(file)


class Anything:
    """An object that unpickling would have to build."""


def test_a_checkpoint_that_holds_objects_is_not_run(tmp_path):
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(write_checkpoint(tmp_path / "a.ckpt", {"rlora": Anything()}))


def test_an_adapter_saved_without_a_run_is_refused(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / checkpoint.MANIFEST).write_text(json.dumps(CARD))
    assert "config" in refused(folder)


@pytest.mark.parametrize("text", ["", "a: [", "- 1"])
def test_a_damaged_config(run_folder, text):
    write_adapter(run_folder / "adapter")
    (run_folder / "config.yaml").write_text(text)
    assert "config.yaml" in refused(run_folder)


# bring


def brought(*words, resume=False):
    saved = Saved(None, None, None, SAVED)
    return bring(COMPOSED, CHOICES, saved, words, resume=resume)


def test_an_evaluation_takes_what_the_scores_depend_on():
    config, choices = brought()
    for section in ("model", "task", "adapter", "seed", "regularizer"):
        assert config[section] == SAVED[section]
    for section in ("optimizer", "scheduler", "trainer", "paths", "test"):
        assert config[section] == COMPOSED[section]
    assert choices == CHOICES | SAVED["choices"]


def test_going_on_takes_the_training_too_but_the_machine():
    config, _ = brought(resume=True)
    for section in ("model", "task", "adapter", "seed", "regularizer", "optimizer", "scheduler"):
        assert config[section] == SAVED[section]
    trainer = config["trainer"]
    assert trainer["max_epochs"] == 9
    assert {key: trainer[key] for key in ("accelerator", "devices", "default_root_dir")} == {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": "new",
    }
    assert config["paths"] == COMPOSED["paths"]


def test_a_strategy_of_the_other_machine_does_not_come_along():
    config, _ = brought(resume=True)
    assert "strategy" not in config["trainer"]


def test_a_group_on_the_command_line_stays_as_composed():
    config, choices = brought("task=lexicon")
    assert config["task"] == COMPOSED["task"]
    assert config["adapter"] == SAVED["adapter"]
    assert (choices["task"], choices["adapter"]) == ("lexicon", "lora")


def test_a_key_on_the_command_line_is_laid_over():
    config, choices = brought("task.batch_size=32", "adapter.alpha=16")
    assert config["task"] == SAVED["task"] | {"batch_size": 32}
    assert config["adapter"] == {"rank": 4, "alpha": 16}
    assert (choices["task"], choices["adapter"]) == ("rte", "lora")


def test_a_deep_key_is_laid_over_alone():
    config, _ = brought("task.dev.test.file=other.tsv")
    assert config["task"] == SAVED["task"] | {"dev": {"test": {"file": "other.tsv"}}}
    assert SAVED["task"]["dev"]["test"]["file"] == "dev.tsv"


def test_a_new_key_is_laid_over():
    config, _ = brought("+adapter.core=false")
    assert config["adapter"] == SAVED["adapter"] | {"core": False}


def test_the_seed_on_the_command_line_wins():
    assert brought("seed=0")[0]["seed"] == 0
    assert brought()[0]["seed"] == 3


def test_words_on_the_training_matter_when_going_on():
    config, _ = brought("trainer.max_epochs=2", "optimizer.lr=0.1", resume=True)
    assert config["trainer"]["max_epochs"] == 2
    assert config["optimizer"] == {"lr": 0.1}
    assert config["scheduler"] == SAVED["scheduler"]


def test_nothing_given_is_changed():
    before = json.dumps([COMPOSED, CHOICES, SAVED])
    brought("task.dev.test.file=other.tsv", "trainer.max_epochs=2", "seed=0", resume=True)
    assert json.dumps([COMPOSED, CHOICES, SAVED]) == before


def test_a_section_that_was_not_saved_stays():
    saved = Saved(None, None, None, {"choices": {}, "adapter": {"rank": 4}})
    config, choices = bring(COMPOSED, CHOICES, saved, [], resume=True)
    assert config == COMPOSED | {"adapter": {"rank": 4}}
    assert choices == CHOICES


@pytest.mark.parametrize("section", ["adapter", "model", "task", "regularizer", "optimizer"])
def test_a_config_that_names_what_no_config_here_names_is_refused(tmp_path, section):
    inner = {
        "_target_": "rlora.adapters.lora.LoRA",
        "rank": {"_target_": "os.system", "command": "true"},
    }
    for config in (
        {"_target_": "os.system"},
        inner,
        {"a": [{"_target_": "rlora.io.atomic.write_atomically"}]},
    ):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved_config({section: config}, {})))
        with pytest.raises(
            ValueError,
            match=r"config\.yaml builds (os\.system|rlora\.io\.atomic.*), which no file in conf/",
        ):
            find_saved(str(tmp_path), resume=False)
