"""Run folders are named by the task and adapter that `ckpt_path` restores."""

import json
from dataclasses import replace

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from rlora.records.record import write_record
from rlora.runs.folder_names import restored

SAVED = {
    "format": 2,
    "choices": {"task": "mine", "adapter": "head", "model": "tiny_encoder"},
    "seed": 7,
}


@pytest.fixture
def run_folder(tmp_path):
    """A run folder with an adapter folder and a checkpoint."""
    folder = tmp_path / "run"
    (folder / "adapter").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(SAVED))
    (folder / "adapter" / "adapter.json").write_text(json.dumps({"config": SAVED}))
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    return folder


@pytest.mark.parametrize("part", [".", "adapter", "checkpoints/last.ckpt"])
def test_the_saved_options_name_the_run(run_folder, part):
    path = str(run_folder / part)
    assert restored("task", "lexicon", path, []) == "mine"
    assert restored("adapter", "rlora", path, ["seed=1"]) == "head"
    assert restored("seed", 0, path, []) == 7


def test_the_command_line_wins_over_the_saved_options(run_folder):
    overrides = ["task=rte", "adapter.rank=3"]
    assert restored("task", "rte", str(run_folder), overrides) == "rte"
    assert restored("adapter", "rlora", str(run_folder), overrides) == "head"
    assert restored("seed", 3, str(run_folder), ["seed=3"]) == 3


def test_a_skipped_run_is_named_by_the_run_itself(run_folder, record, tmp_path):
    held = replace(record, run=replace(record.run, directory=str(run_folder)))
    write_record(held, tmp_path / "skipped")
    assert restored("task", "lexicon", str(tmp_path / "skipped"), []) == "mine"


@pytest.mark.parametrize(
    "content", ["", "[]", "choices: 3", "choices: {task: ../../x}", "choices: {task: [a]}", "{a"]
)
def test_a_damaged_config_names_nothing(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    assert restored("task", "lexicon", str(tmp_path), []) == "lexicon"


@pytest.mark.parametrize("path", [None, "None", "nowhere", "/dev/null/x"])
def test_without_a_saved_run_the_composed_options_name_it(path):
    assert restored("task", "lexicon", path, []) == "lexicon"


def test_hydra_names_the_folders_so(root, run_folder):
    overrides = [f"ckpt_path={run_folder}", "hydra.job.num=4", "task=sst2", "paths.outputs=o"]
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        config = compose("train", [*overrides, "~local"], return_hydra_config=True)
    hydra = HydraConfig.instance()
    hydra.cfg = config
    try:
        assert OmegaConf.select(config, "hydra.run.dir").startswith("o/runs/sst2-head/")
        assert config.hydra.sweep.subdir == "4-sst2-head-seed7"
    finally:
        hydra.cfg = None
