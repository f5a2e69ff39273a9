"""The plan of a run: sections restored by `ckpt_path`, the part of a learned prior, and checks."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from rlora.config.allowlist import saved_config
from rlora.config.config_hash import config_hash
from rlora.config.job import Job
from rlora.runs.plan import resolve, restore_sections
from rlora.runs.resume import SavedRun
from rlora.training.checkpoints import CHECKPOINT_FORMAT

SAVED = {
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
COMPOSED = {
    "model": {"path": "here"},
    "task": {
        "name": "lexicon",
        "decoding": {"beams": 2},
        "batch_size": 32,
        "dev": {"test": {"file": "other.tsv"}},
    },
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

# of lightning.Trainer; they cast the trained numbers, and the docs promise float32
TRUE_PRECISIONS = ("bf16-true", "16-true", "64-true", "transformer-engine")


def restored(*overrides, resume=False):
    saved = SavedRun(Path("saved"), None, Path("saved/checkpoints/last.ckpt"), SAVED)
    return restore_sections(COMPOSED, CHOICES, saved, overrides, resume=resume)


def test_an_evaluation_restores_what_the_scores_depend_on():
    config, choices = restored()
    for section in ("model", "task", "adapter", "seed", "regularizer"):
        assert config[section] == SAVED[section]
    for section in ("optimizer", "scheduler", "trainer", "paths", "test"):
        assert config[section] == COMPOSED[section]
    assert choices == CHOICES | SAVED["choices"]


def test_resuming_restores_the_training_settings_but_not_the_machine():
    config, _ = restored(resume=True)
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


def test_the_strategy_of_another_machine_is_not_restored():
    config, _ = restored(resume=True)
    assert "strategy" not in config["trainer"]


@pytest.mark.parametrize("override", ["~adapter.rank", "~task.dev.test", "~task.no.such.key"])
def test_a_removed_key_is_removed_from_the_saved_section(override):
    config, _ = restored(override)
    assert "rank" in SAVED["adapter"]
    assert "test" in SAVED["task"]["dev"]
    assert ("rank" in config["adapter"]) == (override != "~adapter.rank")
    assert ("test" in config["task"]["dev"]) == (override != "~task.dev.test")


def test_a_group_on_the_command_line_stays_as_composed():
    config, choices = restored("task=lexicon")
    assert config["task"] == COMPOSED["task"]
    assert config["adapter"] == SAVED["adapter"]
    assert (choices["task"], choices["adapter"]) == ("lexicon", "lora")


def test_a_key_on_the_command_line_changes_the_saved_section():
    config, choices = restored("task.batch_size=32", "adapter.alpha=16")
    assert config["task"] == SAVED["task"] | {"batch_size": 32}
    assert config["adapter"] == {"rank": 4, "alpha": 16}
    assert (choices["task"], choices["adapter"]) == ("rte", "lora")


def test_a_nested_key_changes_nothing_else():
    config, _ = restored("task.dev.test.file=other.tsv")
    assert config["task"] == SAVED["task"] | {"dev": {"test": {"file": "other.tsv"}}}
    assert SAVED["task"]["dev"]["test"]["file"] == "dev.tsv"


def test_a_new_key_is_added_to_the_saved_section():
    config, _ = restored("+adapter.core=false")
    assert config["adapter"] == SAVED["adapter"] | {"core": False}


def test_the_seed_on_the_command_line_wins():
    assert restored("seed=0")[0]["seed"] == 0
    assert restored()[0]["seed"] == 3


def test_resuming_changes_the_end_of_the_run_and_refuses_its_options():
    config, _ = restored("trainer.max_epochs=2", resume=True)
    assert config["trainer"]["max_epochs"] == 2
    assert config["scheduler"] == SAVED["scheduler"]
    for override in ("optimizer.lr=0.1", "task=lexicon", "~adapter.rank", "+adapter.core=false"):
        with pytest.raises(ValueError, match=f"{re.escape(override)} is invalid with ckpt_path"):
            restored(override, resume=True)


def test_resuming_accepts_the_saved_options():
    same = {**COMPOSED, "optimizer": {"lr": 0.5}, "seed": 3, "adapter": {"rank": 4, "alpha": 8.0}}
    saved = SavedRun(Path("saved"), None, Path("saved/checkpoints/last.ckpt"), SAVED)
    words = ["optimizer.lr=5e-1", "seed=3", "adapter.alpha=8.0", "~adapter.core", "task=rte"]
    config, _ = restore_sections(same, {**CHOICES, "task": "rte"}, saved, words, resume=True)
    assert config["task"] == SAVED["task"]
    assert config["adapter"] == SAVED["adapter"]


def test_no_argument_is_changed():
    before = json.dumps([COMPOSED, CHOICES, SAVED])
    restored("task.dev.test.file=other.tsv", "trainer.max_epochs=2", "seed=0")
    restored("task.decoding.beams=2", "trainer.max_epochs=2", resume=True)
    assert json.dumps([COMPOSED, CHOICES, SAVED]) == before


def test_a_section_that_was_not_saved_stays_as_composed():
    saved = SavedRun(None, None, None, {"choices": {}, "adapter": {"rank": 4}})
    config, choices = restore_sections(COMPOSED, CHOICES, saved, [], resume=True)
    assert config == COMPOSED | {"adapter": {"rank": 4}}
    assert choices == CHOICES


# resolve


@pytest.fixture
def planned(compose, tmp_path):
    """Function (*overrides): the composed config, and its plan."""

    def make(*overrides):
        composed = compose(*overrides, folder=tmp_path)
        before = copy.deepcopy(composed.config)
        plan = resolve(composed.config, Job(tmp_path, composed.choices, list(overrides)))
        assert composed.config == before
        return composed, plan

    return make


@pytest.fixture
def saved_run(compose, tmp_path):
    """The folder of a run with a checkpoint and no adapter, of another adapter and seed."""
    folder = tmp_path / "saved"
    composed = compose("adapter=lora", "adapter.rank=2", "seed=5", "trainer.max_epochs=7")
    config = saved_config(composed.config, composed.choices)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    header = {"format": CHECKPOINT_FORMAT, "config": config}
    torch.save({"rlora": header, "state_dict": {}}, folder / "checkpoints" / "last.ckpt")
    torch.save({"rlora": header, "state_dict": {}}, folder / "checkpoints" / "best.ckpt")
    return folder


def test_without_a_saved_run_the_plan_is_the_composed_config(planned, tmp_path):
    composed, plan = planned("adapter=nola", "seed=3", "certificate.draws=7")
    assert plan.config == composed.config
    assert plan.choices == composed.choices
    assert plan.saved is None
    assert plan.identity.config_hash == config_hash(composed.config, str(tmp_path))
    assert plan.certificate.draws == 7


@pytest.mark.parametrize("train", [True, False])
def test_the_plan_of_a_saved_run(planned, saved_run, tmp_path, train):
    switch = f"train={str(train).lower()}"
    own = "trainer.enable_progress_bar=true" if train else "adapter.alpha=9"
    composed, plan = planned(switch, f"ckpt_path='{saved_run}'", own)
    assert plan.saved.checkpoint.name == ("last.ckpt" if train else "best.ckpt")
    assert plan.choices["adapter"] == "lora"
    assert plan.config["adapter"]["rank"] == 2
    assert (plan.config["adapter"]["alpha"] == 9) != train
    assert plan.config["seed"] == 5
    epochs = composed.config["trainer"]["max_epochs"]
    assert epochs != 7
    assert plan.config["trainer"]["max_epochs"] == (7 if train else epochs)
    assert plan.config["ckpt_path"] == str(saved_run)
    assert plan.identity.config_hash == config_hash(composed.config, str(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["regularizer=pac_bayes", "regularizer.prior=split"], "rest"),
        (["regularizer=pac_bayes", "regularizer.prior=split", "train=false"], None),
        (["regularizer=pac_bayes"], None),
        ([], None),
    ],
)
def test_a_learned_prior_leaves_the_rest_of_the_task_to_the_run(planned, overrides, part):
    assert planned(*overrides)[1].config["task"]["part"] == part


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=-1"], "seed=-1"),
        (["ckpt_path=nowhere"], "ckpt_path=nowhere is invalid"),
        (["model.dtype=bfloat16"], "trainer=bf16"),
        (["optimizer.eps=nan"], r"optimizer\.eps=nan is invalid: expected a finite number"),
        (["trainer.gradient_clip_val=inf"], r"trainer\.gradient_clip_val=inf is invalid"),
        *[
            ([f"trainer.precision={value}"], f"precision={value} .*bf16-mixed.*dtype=bfloat16")
            for value in (*TRUE_PRECISIONS, "64", "double")
        ],
        (["regularizer=pac_bayes", "regularizer.prior=split", "task.part=prior"], "task.part"),
        (["certificate.draws=0"], "draws"),
    ],
)
def test_settings_that_cannot_work_are_refused(planned, overrides, message):
    with pytest.raises(ValueError, match=message):
        planned(*overrides)


@pytest.mark.parametrize("value", ["32", "32-true", "null", "16", "bf16", "bf16-mixed", "16-mixed"])
def test_precisions_that_keep_trained_numbers_in_float32(planned, value):
    planned(f"trainer.precision={value}")
