"""A run whose numbers are not finite fails: it leaves no record, no adapter, no checkpoint."""

import json
import math
import re
from typing import ClassVar

import pytest
import torch
from torchmetrics import Metric, MetricCollection

from rlora.records.record import read_record
from rlora.tasks.supervised import SupervisedTask

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")
ONE_STEP = (
    "task.batch_size=60",
    "trainer.max_epochs=1",
    "scheduler=constant",
    "scheduler.warmup=0",
)
POSTERIOR = ("regularizer=pac_bayes", "regularizer.objective=elbo", "regularizer.lr=1e4")


def fails(tiny_run, folder, *overrides):
    """Return the error of a run that must leave nothing that looks finished."""
    with pytest.raises(ValueError, match=r"diverged|finite") as caught:
        tiny_run(*overrides, folder=folder)
    left = {path.name for path in folder.iterdir()}
    assert left <= {"config.yaml", "error.log", "metrics.csv", "logs", "lightning_logs"}
    assert str(caught.value) in (folder / "error.log").read_text()
    return str(caught.value)


@pytest.mark.parametrize("model", ["tiny_encoder", "tiny_decoder"])
@pytest.mark.parametrize("interval", [1, 100])
def test_a_loss_that_is_not_finite_stops_the_run(tiny_run, tmp_path, model, interval):
    steps = f"trainer.log_every_n_steps={interval}"
    message = fails(tiny_run, tmp_path, "optimizer.lr=1e30", f"model={model}", steps)
    assert "the loss of step 2 is nan, with learning rates adapter 8.33e+29" in message
    assert "lower optimizer.lr" in message


def test_the_step_of_an_accumulated_loss(tiny_run, tmp_path):
    options = ("optimizer.lr=1e30", "trainer.accumulate_grad_batches=2", "task.batch_size=10")
    assert "the loss of step 2 is nan" in fails(
        tiny_run, tmp_path, *options, "scheduler=constant", "scheduler.warmup=0"
    )


def test_a_trained_number_that_is_not_finite_after_the_last_step(tiny_run, tmp_path):
    """Without eps, AdamW divides 0 by 0 where a gradient is 0, as at the start of LoRA's A."""
    message = fails(tiny_run, tmp_path, *ONE_STEP, "adapter=lora", "optimizer.eps=0")
    assert re.search(
        r"updates\.0\.A is not finite after step 1, with learning rates adapter", message
    )


def test_finite_numbers_that_give_a_validation_loss_that_is_not(tiny_run, tmp_path):
    message = fails(tiny_run, tmp_path, *ONE_STEP, "optimizer.lr=1e37", "adapter=full")
    assert "validation/loss is nan after step 1" in message


def test_posterior_scales_that_are_not_finite(tiny_run, tmp_path):
    assert "sigma of" in fails(tiny_run, tmp_path, *ONE_STEP, *POSTERIOR)


def test_an_evaluation_without_finite_outputs_leaves_no_record(tiny_run, tmp_path, monkeypatch):
    tiny_run("trainer.max_epochs=1", "test=false", folder=tmp_path / "run")
    monkeypatch.setattr(SupervisedTask, "loss", lambda *_: torch.tensor(math.nan))
    with pytest.raises(ValueError, match="test/loss is nan: the outputs of the model are not"):
        tiny_run("train=false", f"ckpt_path='{tmp_path / 'run'}'", folder=tmp_path / "again")
    assert not (tmp_path / "again" / "results.json").exists()


def test_a_run_that_diverges_after_its_last_validation_leaves_no_adapter(tiny_run, tmp_path):
    """The first step makes numbers that are finite and outputs that are not."""
    message = "training diverged: test/loss is nan after step 1; lower optimizer.lr"
    with pytest.raises(ValueError, match=message):
        tiny_run("optimizer.lr=1e30", "+trainer.max_steps=1", "adapter=lora", folder=tmp_path)
    assert not (tmp_path / "adapter").exists()
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("key", ["lr", "head_lr"])
def test_a_rate_that_overflows_in_the_first_step_is_refused(tiny_run, tmp_path, key):
    with pytest.raises(ValueError, match=rf"optimizer.{key}=1e\+38 is invalid: expected a number"):
        tiny_run(f"optimizer.{key}=1e38", folder=tmp_path)


# scores that are undefined


class Scripted(Metric):
    """A metric of these values, one per computation."""

    values: ClassVar[list[float]] = []

    def update(self, preds, target):
        """Ignore the predictions."""

    def compute(self):
        """Return the next value."""
        return torch.tensor(Scripted.values.pop(0))


@pytest.fixture
def scripted(monkeypatch):
    """Function (*values): the accuracies that the evaluations of a run will give."""

    def script(*values):
        Scripted.values = list(values)
        monkeypatch.setattr(
            SupervisedTask, "new_metrics", lambda self: MetricCollection({"accuracy": Scripted()})
        )

    return script


def strictly_read(folder):
    """Return the record, whose JSON has no nan."""

    def refuse(constant):
        raise AssertionError(f"results.json holds {constant}")

    json.loads((folder / "results.json").read_text(), parse_constant=refuse)
    return read_record(folder)


def test_an_undefined_score_is_never_the_best(tiny_run, tmp_path, scripted):
    scripted(math.nan, 0.25, math.nan)
    options = ("trainer.max_epochs=3", "callbacks=early_stopping", "test=false")
    assert tiny_run(*options, "callbacks.early_stopping.patience=2", folder=tmp_path) == 0.25
    record = strictly_read(tmp_path)
    assert record.training.best_epoch == 1
    rows = ["validation/accuracy" in row for row in record.training.history]
    assert rows == [False, True, False]
    assert not record.missing


def test_a_score_that_is_always_undefined_is_missing(tiny_run, tmp_path, scripted):
    scripted(math.nan, math.nan, math.inf)
    assert tiny_run(folder=tmp_path) == -math.inf
    record = strictly_read(tmp_path)
    assert set(record.scores) == {"validation/loss", "test/loss"}
    assert record.missing["validation/accuracy"].startswith("it is nan")
    assert record.missing["test/accuracy"].startswith("it is inf")


def test_epochs_shorter_than_the_interval_log_their_last_step(tiny_run, tmp_path):
    tiny_run("trainer.log_every_n_steps=10", folder=tmp_path)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    assert [row["step"] for row in rows if row["train/loss_step"]] == ["2", "5"]
    assert [row["step"] for row in rows if row["train/loss_epoch"]] == ["2", "5"]
