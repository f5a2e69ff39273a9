"""Runs in this process: failures, evaluating and resuming saved runs, optional parts."""

import json
import time
from importlib.metadata import version

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rlora.adapters import checkpoint
from rlora.config.allowlist import CONFIG_FORMAT
from rlora.config.job import Job
from rlora.records.record import read_record
from rlora.runs.plan import resolve
from rlora.training.callbacks.recorder import Recorder
from rlora.training.module import FineTuning

pytestmark = pytest.mark.filterwarnings(
    "ignore:The number of training batches",
    "ignore:The dirpath has changed",
    "ignore:Total length of `list`",
)


class Broken(Exception):
    """The error that stops a run in these tests."""


@pytest.fixture
def breaks(monkeypatch):
    """Function (epoch): training fails at its second batch."""

    def at(epoch):
        step = FineTuning.training_step

        def training_step(self, batch, batch_idx):
            if (self.current_epoch, batch_idx) == (epoch, 1):
                raise Broken("on purpose")
            return step(self, batch, batch_idx)

        monkeypatch.setattr(FineTuning, "training_step", training_step)

    return at


@pytest.fixture(scope="module")
def finished(tiny_run, tmp_path_factory):
    """The folder of a run of three epochs."""
    folder = tmp_path_factory.mktemp("finished")
    score = tiny_run("trainer.max_epochs=3", folder=folder)
    assert score == read_record(folder).scores["validation/accuracy"]
    return folder


def tensors(folder):
    return load_file(folder / "adapter" / checkpoint.ADAPTER_FILE) | load_file(
        folder / "adapter" / checkpoint.HEAD_FILE
    )


def same(first, second):
    assert set(first) == set(second)
    return all(torch.equal(first[name], second[name]) for name in first)


# failures


def test_a_failed_training_writes_no_record(tiny_run, tmp_path, breaks):
    breaks(1)
    with pytest.raises(Broken, match="on purpose"):
        tiny_run(folder=tmp_path)
    assert "Broken: on purpose" in (tmp_path / "error.log").read_text()
    assert not (tmp_path / "results.json").exists()
    assert not (tmp_path / "adapter").exists()
    assert (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter.rank=64"], r"adapter\.rank=64 is above"),
        (["adapter.targets=[nowhere]"], r"adapter\.targets: 'nowhere' matches no"),
        (["task.train_size=119"], r"task\.train_size=119"),
        (["seed=-1"], r"seed=-1"),
        (["seed=0.5"], r"seed=0\.5"),
        (["scheduler.shape=triangle"], r"scheduler\.shape='triangle'"),
        (["optimizer.lr=-1"], r"optimizer\.lr=-1"),
        (["predict=true"], r"predict=true"),
        (["ckpt_path=nowhere"], r"ckpt_path=nowhere"),
        (["+adapter.num_bases=4"], r"num_bases"),
    ],
    ids=lambda value: value[0].partition("=")[0] if isinstance(value, list) else None,
)
def test_an_invalid_override_gives_one_sentence_and_no_record(
    tiny_run, tmp_path, overrides, message
):
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(ValueError, match=message) as caught:
        tiny_run(*overrides, folder=folder)
    assert len(str(caught.value).splitlines()) == 1
    if folder.exists():  # a run that is refused before it starts leaves no folder
        assert "Traceback" in (folder / "error.log").read_text()
        assert (folder / "config.yaml").is_file()
    assert not (folder / "results.json").exists()


def test_a_failed_run_removes_the_record_of_an_earlier_run(tiny_run, tmp_path, breaks):
    tiny_run("trainer.max_epochs=1", folder=tmp_path)
    breaks(0)
    with pytest.raises(Broken):
        tiny_run("seed=1", folder=tmp_path)
    assert not (tmp_path / "results.json").exists()


# from a run


def test_the_same_config_gives_the_same_run(tiny_run, tmp_path, finished):
    torch.manual_seed(99)
    tiny_run("trainer.max_epochs=3", folder=tmp_path)
    assert same(tensors(tmp_path), tensors(finished))
    assert read_record(tmp_path).scores == read_record(finished).scores
    assert read_record(tmp_path).training.history == read_record(finished).training.history


def test_another_seed_gives_another_run(tiny_run, tmp_path, finished):
    tiny_run("trainer.max_epochs=3", "seed=1", folder=tmp_path)
    assert not same(tensors(tmp_path), tensors(finished))
    assert (
        read_record(tmp_path).backbone["random_structure"]
        != read_record(finished).backbone["random_structure"]
    )
    assert read_record(tmp_path).data["fingerprint"] == read_record(finished).data["fingerprint"]


@pytest.mark.parametrize("part", ["", "adapter", "checkpoints/best.ckpt"])
def test_an_evaluation_repeats_the_test_scores(tiny_run, tmp_path, finished, part):
    # the saved model, adapter and seed are restored: the defaults differ
    tiny_run("train=false", f"ckpt_path='{finished / part}'", folder=tmp_path)
    evaluated, trained = read_record(tmp_path), read_record(finished)
    assert evaluated.scores == {
        key: value for key, value in trained.scores.items() if key.startswith("test")
    }
    assert not evaluated.run.trained
    assert evaluated.run.from_checkpoint == str(finished / part)
    assert evaluated.adapter_file_bytes is None
    assert not (tmp_path / "adapter").exists()
    assert evaluated.training.epochs == 0


def test_an_evaluation_takes_adapter_and_model_from_the_run(tiny_job, tmp_path):
    from rlora.runs.experiment import run

    overrides = ["model=tiny_decoder", "adapter=nola", "adapter.num_bases=7", "seed=4"]
    config, job = tiny_job(*overrides, folder=tmp_path / "first")
    run(config, job)
    config, job = tiny_job(
        "train=false", f"ckpt_path='{tmp_path / 'first'}'", folder=tmp_path / "second"
    )
    job.overrides[:] = [item for item in job.overrides if not item.startswith("model=")]
    run(config, job)
    first, second = read_record(tmp_path / "first"), read_record(tmp_path / "second")
    assert (second.run.model, second.run.adapter, second.run.seed) == ("tiny_decoder", "nola", 4)
    assert second.config["adapter"]["num_bases"] == 7
    assert second.scores["test/loss"] == first.scores["test/loss"]
    config = yaml.safe_load((tmp_path / "second" / "config.yaml").read_text())
    assert config == {"format": CONFIG_FORMAT, **second.config}


def test_a_resumed_run_equals_an_uninterrupted_one(
    tiny_run, tmp_path, finished, breaks, monkeypatch
):
    broken, resumed = tmp_path / "broken", tmp_path / "resumed"
    breaks(2)
    with pytest.raises(Broken):
        tiny_run("trainer.max_epochs=3", folder=broken)
    monkeypatch.undo()
    tiny_run("trainer.max_epochs=3", f"ckpt_path='{broken}'", folder=resumed)
    assert same(tensors(resumed), tensors(finished))
    first, second = read_record(finished), read_record(resumed)
    assert second.scores == first.scores
    assert second.training.history == first.training.history
    assert second.training.best_epoch == first.training.best_epoch
    assert (second.training.epochs, second.training.steps) == (3, 9)


def test_resuming_within_an_epoch_is_exact(tiny_run, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    overrides = (
        "task.batch_size=5",  # 12 batches per epoch
        "trainer.max_epochs=2",
        "trainer.accumulate_grad_batches=2",
        "+callbacks.step._target_=lightning.pytorch.callbacks.ModelCheckpoint",
        "+callbacks.step.dirpath=${paths.run}/checkpoints",
        "+callbacks.step.filename=inside",
        "+callbacks.step.every_n_train_steps=5",  # after 5 and 10 of 12 optimizer steps
    )
    tiny_run(*overrides, folder=whole)
    inside = whole / "checkpoints" / "inside.ckpt"
    state = torch.load(inside, weights_only=True)
    assert (state["epoch"], state["global_step"]) == (1, 10)
    tiny_run(*overrides, f"ckpt_path='{inside}'", folder=resumed)
    ends = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (whole, resumed)
    ]
    assert same(*ends)


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=1e-5",
        "optimizer.weight_decay=0.3",
        "optimizer.betas=[0.8,0.9]",
        "scheduler=constant",
        "scheduler.warmup=0.5",
        "adapter.alpha=3",
        "adapter=lora",
        "regularizer=pac_bayes",
        "task.batch_size=10",
        "task.train_size=30",
        "task=sst2",
        "seed=7",
        "trainer.precision=bf16-mixed",
        "trainer=bf16",
        "trainer.accumulate_grad_batches=2",
        "trainer.gradient_clip_val=0.5",
        "~trainer.gradient_clip_val",
        "+trainer.limit_train_batches=1",
        "trainer={max_epochs:4}",
        "experiment=compare_adapters",
        "debug=overfit",
    ],
)
@pytest.mark.parametrize("file", ["", "checkpoints/best.ckpt"])
def test_a_resumed_run_refuses_other_options(compose, tmp_path, finished, file, override):
    path = f"ckpt_path='{finished / file}'"
    words = [path, override]
    composed = compose(*words, folder=tmp_path)
    with pytest.raises(ValueError, match="a resumed run keeps its options, here") as caught:
        resolve(composed.config, Job(tmp_path, composed.choices, words))
    message = str(caught.value)
    assert message.startswith(f"{override} is invalid with ckpt_path={finished / file}")
    assert "it may change trainer.max_epochs" in message
    assert f"set ckpt_path={finished / 'adapter'}" in message


def test_a_resumed_run_accepts_its_own_options(tiny_job, tmp_path, finished):
    changed = ("trainer.max_epochs=4", "task.eval_batch_size=7", "trainer.log_every_n_steps=3")
    equal = ("optimizer=adamw", "adapter=rlora", "optimizer.weight_decay=0", "seed=0")
    job = tiny_job(f"ckpt_path='{finished}'", *changed, *equal, folder=tmp_path)
    config = resolve(*job).config
    saved = read_record(finished).config
    assert config["trainer"]["max_epochs"] == 4
    assert config["task"] == saved["task"] | {"eval_batch_size": 7}
    for section in ("optimizer", "scheduler", "adapter", "model", "regularizer", "seed"):
        assert config[section] == saved[section]


def test_a_resumed_run_keeps_its_callbacks(tiny_run, tiny_job, tmp_path):
    stopped, resumed = tmp_path / "stopped", tmp_path / "resumed"
    early = ("callbacks=early_stopping", "callbacks.early_stopping.patience=2")
    tiny_run(*early, "trainer.max_epochs=1", "test=false", folder=stopped)
    config = resolve(*tiny_job(f"ckpt_path='{stopped}'", folder=resumed)).config
    assert config["callbacks"]["early_stopping"]["patience"] == 2
    assert config["callbacks"]["best"]["dirpath"] == f"{resumed}/checkpoints"


def test_a_resumed_run_stops_after_the_patience_of_the_command_line(tiny_run, tmp_path):
    """The config of the run says 10, and Lightning would restore 1."""
    first, resumed = tmp_path / "first", tmp_path / "resumed"
    early = ("callbacks=early_stopping", "optimizer.lr=0", "optimizer.head_lr=0", "test=false")
    tiny_run(*early, "callbacks.early_stopping.patience=1", folder=first)
    more = ("callbacks=early_stopping", "callbacks.early_stopping.patience=10", "test=false")
    tiny_run(f"ckpt_path='{first}'", *more, "trainer.max_epochs=6", folder=resumed)
    assert read_record(resumed).training.epochs == 6


@pytest.mark.parametrize("steps", [5, 6, 8])
def test_a_run_resumed_to_a_number_of_steps_has_no_empty_epoch(tiny_run, tmp_path, steps):
    first, resumed = tmp_path / "first", tmp_path / "resumed"
    tiny_run("trainer.max_epochs=1", "test=false", folder=first)  # 3 steps per epoch
    limits = (f"+trainer.max_steps={steps}", "trainer.max_epochs=-1", "callbacks=early_stopping")
    tiny_run(f"ckpt_path='{first}'", *limits, "test=false", folder=resumed)
    history = read_record(resumed).training.history
    expected = [(0, 3), (1, min(steps, 6)), (2, 8)][: 2 + (steps > 6)]
    assert [(row["epoch"], row["step"]) for row in history] == expected
    scored = ["validation/accuracy" in row for row in history]
    assert scored == [row["step"] % 3 == 0 for row in history]


def test_an_epoch_without_validation_has_no_scores(tiny_run, tmp_path):
    options = ("+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3", "test=false")
    tiny_run(*options, "callbacks=early_stopping", folder=tmp_path)
    history = read_record(tmp_path).training.history
    assert ["validation/accuracy" in row for row in history] == [False, True, False]
    assert all("train/loss" in row for row in history)


def test_a_run_resumed_with_more_epochs_follows_the_longer_schedule(
    tiny_run, tmp_path, finished, monkeypatch
):
    rates = []
    begin = FineTuning.on_train_batch_start

    def on_train_batch_start(self, batch, batch_idx):
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        begin(self, batch, batch_idx)

    monkeypatch.setattr(FineTuning, "on_train_batch_start", on_train_batch_start)
    tiny_run("trainer.max_epochs=6", folder=tmp_path / "whole")
    whole = list(rates)
    rates.clear()
    tiny_run("trainer.max_epochs=6", f"ckpt_path='{finished}'", folder=tmp_path / "resumed")
    assert rates == whole[9:]
    record = read_record(tmp_path / "resumed")
    assert record.config["trainer"]["max_epochs"] == 6
    assert record.training.epochs == 6


def test_a_run_is_not_resumed_on_other_data(tiny_run, tmp_path, finished, small_lexicon):
    other = tmp_path / "vader_lexicon.txt"
    other.write_text("other" + small_lexicon.read_text())  # changes the first word
    options = ("trainer.max_epochs=4", f"ckpt_path='{finished}'", f"task.path='{other}'")
    with pytest.raises(ValueError, match="was trained on other data"):
        tiny_run(*options, folder=tmp_path / "resumed")


def test_the_seconds_of_a_resumed_run_include_earlier_sessions(tiny_run, tmp_path, monkeypatch):
    begun, resumed = tmp_path / "begun", tmp_path / "resumed"
    wait = Recorder.on_train_epoch_start

    def slow(self, trainer, module):
        wait(self, trainer, module)
        time.sleep(1.0)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_epoch_start", slow)
        tiny_run("trainer.max_epochs=1", "test=false", folder=begun)
    tiny_run("trainer.max_epochs=2", f"ckpt_path='{begun}'", folder=resumed)
    first, second = read_record(begun), read_record(resumed)
    assert second.training.seconds > first.training.seconds > 1
    assert second.run.seconds > second.training.seconds


def test_an_unfinished_run_can_be_evaluated(tiny_run, tmp_path, breaks, monkeypatch):
    broken, evaluated = tmp_path / "broken", tmp_path / "evaluated"
    breaks(1)
    with pytest.raises(Broken):
        tiny_run(folder=broken)
    monkeypatch.undo()
    tiny_run("train=false", f"ckpt_path='{broken}'", folder=evaluated)
    assert set(read_record(evaluated).scores) == {"test/loss", "test/accuracy"}


def test_a_finished_run_is_not_resumed(tiny_run, tmp_path, finished):
    with pytest.raises(ValueError, match=r"has trained 3 of trainer\.max_epochs=3 epochs"):
        tiny_run("trainer.max_epochs=3", f"ckpt_path='{finished}'", folder=tmp_path)


def test_training_starts_from_a_saved_adapter(tiny_run, tmp_path, finished):
    overrides = ["trainer.max_epochs=1", "optimizer.lr=0", "optimizer.head_lr=0"]
    tiny_run(*overrides, f"ckpt_path='{finished / 'adapter'}'", folder=tmp_path)
    assert same(tensors(tmp_path), tensors(finished))  # learning rates of zero change nothing
    assert read_record(tmp_path).run.trained


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("adapter.alpha=4", "alpha"),
        ("seed=1", "another backbone|random structure|another run"),
        ("adapter=lora", "method|another run"),
        ("adapter.targets=[q]", "does not fit|random structure"),
    ],
)
def test_an_evaluation_with_other_settings_is_refused(
    tiny_run, tmp_path, finished, override, message
):
    with pytest.raises(ValueError, match=message):
        tiny_run("train=false", f"ckpt_path='{finished}'", override, folder=tmp_path)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    "override", ["adapter.alpha=4", "seed=1", "adapter=lora", "adapter.targets=[q]"]
)
def test_a_checkpoint_of_other_settings_is_refused(tiny_run, tmp_path, finished, override):
    checkpoint = finished / "checkpoints" / "best.ckpt"
    with pytest.raises(
        ValueError, match=r"checkpoint (belongs to another run|does not hold what trains here)"
    ):
        tiny_run("train=false", f"ckpt_path='{checkpoint}'", override, folder=tmp_path)


# parts switched off


@pytest.mark.parametrize(
    "override", ["logger=none", "debug=overfit", "test=false", "callbacks=early_stopping"]
)
def test_optional_parts(tiny_run, tmp_path, override):
    tiny_run(override, folder=tmp_path)
    record = read_record(tmp_path)
    assert ("test/accuracy" in record.scores) == (override not in ("test=false", "debug=overfit"))
    assert (tmp_path / "metrics.csv").exists() == (override != "logger=none")
    assert (tmp_path / "checkpoints").exists() == (override != "debug=overfit")
    assert record.training.best_epoch in (0, 1)


def test_without_checkpoints_the_last_epoch_is_kept(tiny_run, tmp_path):
    tiny_run("debug=overfit", folder=tmp_path)
    record = read_record(tmp_path)
    assert record.training.best_epoch == 1
    assert record.scores["validation/loss"] == record.training.history[-1]["validation/loss"]


@pytest.mark.parametrize("option", ["default", "anomaly"])
def test_a_debug_run(tiny_run, tmp_path, option):
    tiny_run(f"debug={option}", folder=tmp_path)
    assert read_record(tmp_path).training.epochs >= 1


def test_the_record_holds_the_command(tiny_run, tmp_path):
    tiny_run("trainer.max_epochs=1", "optimizer.weight_decay=0.25", folder=tmp_path)
    raw = json.loads((tmp_path / "results.json").read_text())
    assert "optimizer.weight_decay=0.25" in raw["run"]["command"]
    assert raw["config"]["optimizer"]["weight_decay"] == 0.25
    assert raw["run"]["directory"] == str(tmp_path)
    assert raw["environment"]["device"].startswith("cpu")
    assert raw["environment"]["versions"]["torch"] == version("torch")
