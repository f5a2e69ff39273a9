"""Experiments: each composes with every adapter it compares, and runs."""

import itertools
from pathlib import Path

import pytest
import yaml

from rlora.records.record import read_record, read_study
from rlora.records.study import STUDY_FILE

CONF = Path(__file__).parents[2] / "conf"
ADAPTERS = ["head", "lora", "rlora", "nola", "randlora"]
FEW_SHOT = ["experiment=few_shot", "trainer.max_epochs=-1", "task.shots=4", "task.batch_size=4"]


@pytest.mark.parametrize("name", ["few_shot", "compare_adapters"])
def test_what_a_multirun_sweeps_by_itself_composes(compose, name):
    params = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())["hydra"]["sweeper"][
        "params"
    ]
    swept = {key: str(options).split(",") for key, options in params.items()}
    groups = [key for key in swept if "." not in key]
    for options in itertools.product(*(swept[key] for key in groups)):
        words = [f"{key}={option}" for key, option in zip(groups, options, strict=True)]
        rest = [f"{key}={swept[key][-1]}" for key in swept if key not in groups]
        assert compose(f"experiment={name}", *words, *rest).config["study"] == name


@pytest.mark.parametrize("task", ["rte", "mrpc", "cola", "stsb", "sst2", "lexicon"])
def test_adapters_are_compared_on_as_many_examples_of_each_task(compose, task):
    for adapter in [*ADAPTERS, "vera"]:
        found = compose("experiment=compare_adapters", f"task={task}", f"adapter={adapter}")
        assert found.choices["model"] == "minilm"
        assert (found.config["task"]["train_examples"], found.config["trainer"]["max_epochs"]) == (
            512,
            10,
        )


@pytest.mark.parametrize("regularizer", ["none", "pac_bayes"])
@pytest.mark.parametrize("task", ["sst2", "mrpc", "cola", "lexicon"])
def test_few_shot_composes_with_minilm(compose, task, regularizer):
    for adapter in ADAPTERS:
        found = compose(
            "experiment=few_shot",
            f"task={task}",
            f"adapter={adapter}",
            f"regularizer={regularizer}",
        )
        assert found.choices["model"] == "minilm"
        assert (found.config["task"]["name"], found.config["task"]["shots"]) == (task, 16)
        assert found.config["trainer"]["val_check_interval"] == found.config["trainer"]["max_steps"]


@pytest.mark.parametrize("regularizer", ["none", "pac_bayes"])
def test_few_shot_scores_its_last_step_and_keeps_the_record(regularizer, tiny_run, tmp_path):
    words = [
        *FEW_SHOT,
        f"regularizer={regularizer}",
        f"paths.studies='{tmp_path}'",
        "trainer.max_steps=5",
    ]
    tiny_run(*words, folder=tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert record.data["rows"]["train"] == record.data["rows"]["validation"] == 8
    assert record.training.steps == 5
    assert set(record.scores) >= {"validation/accuracy", "test/accuracy"}
    assert not (tmp_path / "run" / "checkpoints").exists()
    (kept,) = read_study(tmp_path / "few_shot" / STUDY_FILE)
    assert kept.scores == record.scores
    assert [row["step"] for row in kept.training.history] == [5]
