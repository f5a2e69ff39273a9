"""Experiments: each composes with every adapter it compares, and runs."""

from pathlib import Path

import pytest
import yaml

from rlora.records.record import STUDY_FILE, read_record
from rlora.records.study_file import read_study

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
ADAPTERS = ["head", "lora", "rlora", "nola", "randlora"]
FEW_SHOT = ["experiment=few_shot", "trainer.max_epochs=-1", "task.shots=4", "task.batch_size=4"]


def sweep_of(name):
    """The parameters that a multirun of an experiment sweeps, each with its options."""
    content = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    params = content["hydra"]["sweeper"]["params"]
    return {key: str(options).split(",") for key, options in params.items()}


def each_option_once(swept):
    """Overrides that set every option of every key once, and the others to their last option.

    A recipe is the only file that belongs to a combination of options; test_conf_recipes.py
    composes every recipe.
    """
    last = {key: options[-1] for key, options in swept.items()}
    for key, options in swept.items():
        for option in options:
            yield [f"{name}={value}" for name, value in (last | {key: option}).items()]


@pytest.mark.parametrize("name", NAMES)
def test_every_option_that_a_multirun_sweeps_composes(compose, name):
    for overrides in each_option_once(sweep_of(name)):
        assert compose(f"experiment={name}", *overrides).config["study"] == name


@pytest.mark.parametrize(
    ("task", "adapter"),
    [
        *((task, "rlora") for task in ("rte", "mrpc", "cola", "stsb", "sst2", "lexicon")),
        *(("mrpc", adapter) for adapter in [*ADAPTERS, "vera"]),
    ],
)
def test_adapters_are_compared_on_the_same_number_of_examples(compose, task, adapter):
    composed = compose("experiment=compare_adapters", f"task={task}", f"adapter={adapter}")
    assert composed.choices["model"] == "minilm"
    assert composed.config["task"]["train_examples"] == 512
    assert composed.config["trainer"]["max_epochs"] == 10


@pytest.mark.parametrize(
    ("task", "adapter", "regularizer"),
    [
        *((task, "rlora", "pac_bayes") for task in ("sst2", "mrpc", "cola", "lexicon")),
        *(("sst2", adapter, "none") for adapter in ADAPTERS),
    ],
)
def test_few_shot_composes_with_minilm(compose, task, adapter, regularizer):
    composed = compose(
        "experiment=few_shot", f"task={task}", f"adapter={adapter}", f"regularizer={regularizer}"
    )
    config = composed.config
    assert composed.choices["model"] == "minilm"
    assert config["task"]["name"] == task
    assert config["task"]["shots"] == 16
    assert config["trainer"]["val_check_interval"] == config["trainer"]["max_steps"]


@pytest.mark.parametrize("regularizer", ["none", "pac_bayes"])
def test_few_shot_scores_its_last_step_and_keeps_the_record(regularizer, tiny_run, tmp_path):
    overrides = [
        *FEW_SHOT,
        f"regularizer={regularizer}",
        f"paths.studies='{tmp_path}'",
        "trainer.max_steps=5",
    ]
    tiny_run(*overrides, folder=tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert record.data["rows"]["train"] == record.data["rows"]["validation"] == 8
    assert record.training.steps == 5
    assert set(record.scores) >= {"validation/accuracy", "test/accuracy"}
    assert not (tmp_path / "run" / "checkpoints").exists()
    (kept,) = read_study(tmp_path / "few_shot" / STUDY_FILE)
    assert kept.scores == record.scores
    assert [row["step"] for row in kept.training.history] == [5]
