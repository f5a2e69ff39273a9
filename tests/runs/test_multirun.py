"""Multiruns: a failed run is reported and stops no other; finished runs are skipped."""

import math
import re
import shutil

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from rlora.records.record import RECORD_FILE, read_record, write_record
from rlora.reports.__main__ import main
from rlora.runs.multirun import MultirunSummary, count_runs

RUN = (
    "model=tiny_encoder",
    "adapter=lora",
    "task=lexicon",
    "trainer.max_epochs=1",
)
QUIET = (
    "trainer=cpu",
    "callbacks=progress",
    "logger=none",
    "trainer.enable_progress_bar=false",
)


def summary_of(folder):
    MultirunSummary().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))


@pytest.fixture
def small(small_lexicon):
    """Overrides of a task of 120 words."""
    return (f"task.path={small_lexicon}", "task.train_size=60")


@pytest.fixture
def folders(record, tmp_path):
    """Folders of a finished, a skipped and an unfinished run."""
    record.run.directory = str(tmp_path / "0")
    write_record(record, tmp_path / "0")
    write_record(record, tmp_path / "1")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "config.yaml").write_text("{}")
    return tmp_path


def test_runs_are_counted(folders, capsys):
    summary_of(folders)
    output = capsys.readouterr().out
    assert "1 finished, 1 skipped (finished earlier), 1 unfinished" in output
    assert "failed" not in output


def test_failed_runs_are_listed_and_make_the_exit_status_one(folders, capsys):
    (folders / "3").mkdir()
    (folders / "3" / "error.log").write_text("Traceback ...\nValueError: no such rank\n")
    with pytest.raises(
        SystemExit, match="some runs failed; rerun the same command to repeat only those"
    ):
        summary_of(folders)
    output = capsys.readouterr().out
    assert "1 failed" in output
    assert "ValueError: no such rank" in output


def test_a_common_reason_is_the_error(tmp_path, capsys):
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "error.log").write_text("Traceback ...\nValueError: no such rank\n")
    with pytest.raises(SystemExit, match=r"^error: no such rank$"):
        summary_of(tmp_path)
    assert "2 failed" in capsys.readouterr().out


def test_a_sweep_without_started_runs_prints_nothing(tmp_path, capsys):
    summary_of(tmp_path)
    assert capsys.readouterr().out == ""


def multirun_config(folder, number=0, overrides=(), typed=(), **sweeper):
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"} | sweeper
    return OmegaConf.create(
        {
            "hydra": {
                "mode": RunMode.MULTIRUN,
                "sweep": {"dir": str(folder)},
                "job": {"num": number},
                "overrides": {"task": list(overrides or typed)},
                "sweeper": {"params": None} | sweeper,
            }
        }
    )


@pytest.mark.parametrize(
    ("typed", "sweeper", "number"),
    [
        (["adapter=lora,rlora", "seed=1,2,3", "task=sst2"], {}, 6),
        (["seed=range(4)"], {"params": {"adapter": "lora,nola"}}, 8),
        (["adapter=vera"], {"params": {"adapter": "lora,nola"}}, 1),
        (["optimizer.lr=interval(0,1)"], {"n_trials": 20}, 20),
        (["optimizer.lr=interval(0,1)"], {}, None),
        (["adapter=glob(*)"], {}, None),
        (["seed=1,2"], {"_target_": "another.Sweeper"}, None),
    ],
)
def test_runs_are_counted_before_they_start(tmp_path, typed, sweeper, number):
    assert count_runs(multirun_config(tmp_path, typed=typed, **sweeper)) == number


def test_a_line_before_each_run(tmp_path, record, capsys, monkeypatch):
    callback = MultirunSummary()
    typed = ["task=sst2", "test=false", "seed=1,2,3,4"]
    seconds = iter([100.0, 160.0, 160.0])
    monkeypatch.setattr("rlora.runs.multirun.time.time", lambda: next(seconds))
    callback.on_multirun_start(multirun_config(tmp_path, typed=typed))
    for number in range(3):
        overrides = ["task=sst2", "test=False", f"seed={number + 1}"]
        callback.on_job_start(multirun_config(tmp_path, number, overrides))
        # the second run is skipped: its record says that it finished in another folder
        record.run.directory = str(tmp_path / str(number)) if number != 1 else "elsewhere"
        write_record(record, tmp_path / str(number))
    assert capsys.readouterr().out.splitlines() == [
        "[1/4] seed=1",
        "[2/4] seed=2 (0:03:00 left for all runs)",
        "[3/4] seed=3 (0:02:00 left for all runs)",
    ]


def test_a_single_run_has_no_such_line(tmp_path, capsys):
    config = multirun_config(tmp_path)
    config.hydra.mode = RunMode.RUN
    MultirunSummary().on_job_start(config)
    assert capsys.readouterr().out == ""


@pytest.mark.cli
@pytest.mark.parametrize(
    "launcher", [(), ("launcher=joblib",), ("launcher=submitit_local",)], ids=str
)
def test_a_failed_run_stops_no_other(launcher, start, small, tmp_path):
    process = start("-m", *launcher, *RUN, *small, *QUIET, "adapter.rank=-1,4")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "1 finished, 1 failed" in output
    # submitit writes the output of a run to a file
    output += "".join(file.read_text() for file in tmp_path.glob("multiruns/*/.submitit/*/*.out"))
    assert "[1/2] adapter.rank=-1\n" in output
    assert "[2/2] adapter.rank=4" in output
    assert "expected a whole number" in output
    (done,) = tmp_path.glob(f"multiruns/*/*/{RECORD_FILE}")
    assert read_record(done).config["adapter"]["rank"] == 4
    assert len(list(tmp_path.glob("multiruns/*/*/error.log"))) == 1


@pytest.mark.cli
def test_a_study_is_one_command_and_its_table_another(train, small, tmp_path, capsys):
    """Run it twice: the second time skips the finished runs by the study's records alone."""
    overrides = (
        "-m",
        "experiment=compare_adapters",
        "task=lexicon",
        *small,
        "task.train_examples=32",
        "model=tiny_encoder",
        "trainer.max_epochs=1",
        f"paths.studies={tmp_path / 'studies'}",
        *QUIET[1:],
    )
    assert "2 finished" in train(
        *overrides, "adapter=lora,rlora", "hydra.sweep.dir=" + str(tmp_path / "first")
    )
    shutil.rmtree(tmp_path / "first")
    assert "4 finished, 2 skipped" in train(*overrides)
    main([str(tmp_path / "studies"), "--csv", str(tmp_path / "runs.csv")])
    assert "lexicon" in capsys.readouterr().out
    adapters = [line.split(",")[2] for line in (tmp_path / "runs.csv").read_text().splitlines()[1:]]
    assert sorted(adapters) == ["head", "lora", "nola", "randlora", "rlora", "vera"]


SEARCH = ("-m", "hparams=optuna", "hydra.sweeper.n_trials=3", "scheduler=constant")


@pytest.mark.cli
def test_a_search_survives_trials_that_diverge(train, small, tmp_path):
    overrides = (*SEARCH, "optimizer.lr=choice(1e-3,1e30)", *RUN, *small, *QUIET)
    for _ in range(2):
        assert "training diverged: the loss of step" in train(*overrides)
    for folder in (tmp_path / "multiruns").iterdir():
        best = OmegaConf.load(folder / "optimization_results.yaml")
        assert best.best_params == {"optimizer.lr": 1e-3}
        assert math.isfinite(best.best_value)


@pytest.mark.cli
def test_a_search_without_a_finished_trial_fails_with_the_reason(completed, small, tmp_path):
    overrides = (*SEARCH, "optimizer.lr=choice(1e29,1e30)", *RUN, *small, *QUIET)
    process = completed(*overrides)
    assert process.returncode == 1
    assert "training diverged: the loss of step" in process.stdout.strip().splitlines()[-1]
    assert not list(tmp_path.glob("multiruns/*/optimization_results.yaml"))


@pytest.mark.cli
def test_a_search_resumes_with_the_same_command(train, small, tmp_path):
    overrides = ("-m", "hparams=learning_rate", *RUN, *small, *QUIET)
    first = train(*overrides, "hydra.sweeper.n_trials=2")
    assert "2 finished" in first
    second = train(*overrides, "hydra.sweeper.n_trials=3")
    assert "1 finished, 2 skipped" in second
    assert re.search(r"^\[3/3\] optimizer\.lr=\S+", second, re.MULTILINE)
    records = [read_record(file) for file in tmp_path.glob(f"multiruns/*/*/{RECORD_FILE}")]
    rates = {record.config["optimizer"]["lr"] for record in records}
    assert len(records) == 5
    assert len(rates) == 3
    assert all(1e-5 <= rate <= 1e-1 for rate in rates)
    best = OmegaConf.load(max(tmp_path.glob("multiruns/*/optimization_results.yaml")))
    assert best.best_value == max(record.scores["validation/accuracy"] for record in records)
    assert not any(name.startswith("test/") for record in records for name in record.scores)
