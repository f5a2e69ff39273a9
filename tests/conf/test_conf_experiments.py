"""Experiments: each composes with every adapter it compares, and runs."""

import pytest

from rlora.records import read_lines, read_record
from rlora.studies import RECORDS

ADAPTERS = ["head", "lora", "rlora", "nola", "randlora"]
FEW_SHOT = ["experiment=few_shot", "trainer.max_epochs=-1", "task.shots=4", "task.batch_size=4"]


@pytest.mark.parametrize("regularizer", ["none", "pac_bayes"])
@pytest.mark.parametrize("task", ["sst2", "mrpc", "cola", "lexicon"])
def test_few_shot_composes_with_minilm(compose, task, regularizer):
    for adapter in ADAPTERS:
        found = compose("experiment=few_shot", f"task={task}", f"adapter={adapter}", f"regularizer={regularizer}")
        assert found.choices["model"] == "minilm"
        assert (found.config["task"]["name"], found.config["task"]["shots"]) == (task, 16)
        assert found.config["trainer"]["val_check_interval"] == found.config["trainer"]["max_steps"]


@pytest.mark.parametrize("regularizer", ["none", "pac_bayes"])
def test_few_shot_scores_its_last_step_and_keeps_the_record(regularizer, tiny_run, tmp_path):
    words = [*FEW_SHOT, f"regularizer={regularizer}", f"paths.studies='{tmp_path}'", "trainer.max_steps=5"]
    tiny_run(*words, folder=tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert record.data["rows"]["train"] == record.data["rows"]["validation"] == 8
    assert record.training.steps == 5
    assert set(record.scores) >= {"validation/accuracy", "test/accuracy"}
    assert not (tmp_path / "run" / "checkpoints").exists()
    (kept,) = read_lines(tmp_path / "few_shot" / RECORDS)
    assert kept.scores == record.scores
    assert [row["step"] for row in kept.training.history] == [5]
