"""What `ckpt_path` may name: run folders, adapter folders and checkpoints; what is refused."""

import json

import pytest
import torch
import yaml

from rlora.adapters import checkpoint
from rlora.config.allowlist import CONFIG_FORMAT, saved_config
from rlora.runs.resume import SavedRun, find_saved, read_checkpoint
from rlora.training.checkpoints import CHECKPOINT_FORMAT

CARD = {"format": checkpoint.FORMAT, "method": {}, "backbone": {}, "sha256": {}}
SAVED = {
    "format": CONFIG_FORMAT,
    "choices": {"task": "rte", "model": "tiny_encoder", "adapter": "lora", "regularizer": "none"},
    "adapter": {"rank": 4, "alpha": 8},
    "seed": 3,
}
HEADER = {"format": CHECKPOINT_FORMAT, "config": SAVED}


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
    saved = find_saved(str(run_folder), resume=False)
    assert saved == SavedRun(run_folder, run_folder / "adapter", None, SAVED)


def test_a_run_is_resumed_from_its_last_checkpoint(run_folder):
    write_adapter(run_folder / "adapter")
    write_checkpoint(run_folder / "checkpoints" / "best.ckpt")
    last = write_checkpoint(run_folder / "checkpoints" / "last.ckpt")
    assert find_saved(str(run_folder), resume=True) == SavedRun(run_folder, None, last, SAVED)


def test_an_unfinished_run_is_evaluated_from_its_best_checkpoint(run_folder):
    best = write_checkpoint(run_folder / "checkpoints" / "best.ckpt")
    write_checkpoint(run_folder / "checkpoints" / "last.ckpt")
    assert find_saved(str(run_folder), resume=False) == SavedRun(run_folder, None, best, SAVED)


@pytest.mark.parametrize("resume", [True, False])
def test_an_adapter_folder(tmp_path, resume):
    folder = write_adapter(tmp_path / "anything")
    assert find_saved(str(folder), resume=resume) == SavedRun(folder, folder, None, SAVED)


@pytest.mark.parametrize("resume", [True, False])
def test_a_checkpoint_file(tmp_path, resume):
    file = write_checkpoint(tmp_path / "epoch.ckpt")
    assert find_saved(str(file), resume=resume) == SavedRun(file, None, file, SAVED)


def test_the_home_folder_is_found(run_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(run_folder.parent))
    write_checkpoint(run_folder / "checkpoints" / "last.ckpt")
    assert find_saved("~/run", resume=True).path == run_folder


def refused(path, resume=False):
    with pytest.raises(ValueError, match=r"\S") as caught:
        find_saved(str(path), resume=resume)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("resume", [True, False])
def test_nonsense(tmp_path, resume):
    for path in (tmp_path, tmp_path / "nowhere"):
        message = refused(path, resume)
        assert message.startswith(f"ckpt_path={path}")
        assert all(name in message for name in ("config.yaml", "adapter.json", ".ckpt"))


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_stopped_before_its_first_epoch(run_folder, resume):
    message = refused(run_folder, resume)
    assert "before the end of its first epoch" in message
    assert ("last.ckpt" in message) == resume


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
    assert "not a checkpoint of this project" in refused(
        write_checkpoint(tmp_path / "a.ckpt", state)
    )


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
