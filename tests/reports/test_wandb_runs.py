"""Runs on Weights & Biases, and the live view of runs that finish."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from rlora.records.record import RECORD_FILE, write_record
from rlora.reports import wandb_runs
from rlora.reports.__main__ import main
from rlora.reports.load import RunLoader, SkippedRun
from rlora.reports.report import ReportSpec, make_report
from rlora.reports.watch import watch


class Run:
    """A stand-in for the runs of `wandb.Api().runs()`."""

    def __init__(self, number, record=None, state="finished"):
        self.id, self.state, self.record = f"r{number}", state, record

    def files(self):
        return [SimpleNamespace(name="output.log")] + (
            [SimpleNamespace(name=RECORD_FILE)] if self.record else []
        )

    def file(self, name):
        assert name == RECORD_FILE

        def download(root, replace):
            from pathlib import Path

            write_record(self.record, Path(root))

        return SimpleNamespace(download=download)


class Api:
    def __init__(self, runs):
        self._runs = runs

    def runs(self, project):
        if project != "team/rlora":
            raise ValueError(f"Could not find project {project}")
        return iter(self._runs)

    def sweep(self, path):
        assert path == "team/rlora/abc"
        return SimpleNamespace(runs=self._runs[:1])


def test_records_are_loaded_and_other_runs_are_skipped(make_record):
    runs = [
        Run(1, make_record(seed=1)),
        Run(2, make_record(seed=2)),
        Run(3),
        Run(4, state="crashed"),
        Run(5, state="running"),
    ]
    loaded = RunLoader().load([], wandb_runs.load_wandb_runs("team/rlora", Api(runs)))
    assert [run.settings["seed"] for run in loaded.scores] == [1, 2]
    assert loaded.unfinished == 1
    reasons = {run.source: run.reason for run in loaded.skipped}
    no_record = f"has no {RECORD_FILE}: it was logged by another program or an older version"
    assert reasons == {
        "wandb:team/rlora/r3": no_record,
        "wandb:team/rlora/r4": "crashed",
    }
    assert len(list(wandb_runs.load_wandb_runs("team/rlora/sweeps/abc", Api(runs)))) == 1


def test_an_unreadable_project_raises():
    with pytest.raises(ValueError, match="--wandb nobody/x cannot be read: Could not find project"):
        list(wandb_runs.load_wandb_runs("nobody/x", Api([])))


def test_the_table_grows_while_runs_finish(make_record, tmp_path):
    loader, console = RunLoader(), Console(record=True, width=120, force_terminal=False)
    arriving = iter([make_record(seed=1, score=0.5), make_record(seed=2, score=0.6)])

    def make():
        report = make_report(loader.load([tmp_path]), ReportSpec())
        if (record := next(arriving, None)) is not None:
            write_record(record, tmp_path / str(record.run.seed))
        return report

    write_record(make_record(seed=3, score=0.7), tmp_path / "3")
    watch(make, 0, console, rounds=3)
    output = console.export_text()
    assert "3 finished, 0 unfinished, 0 skipped" in output
    assert "60.0 ± 10.0" in output


def test_a_file_gets_each_update_as_it_comes(make_record, tmp_path):
    """A file or pipe once stayed empty until the view ended."""
    with (tmp_path / "view.txt").open("w") as stream:
        console, seen = Console(file=stream, width=120), []

        def make():
            seen.append((tmp_path / "view.txt").read_text())
            return make_report(RunLoader().load([tmp_path / "runs"]), ReportSpec())

        write_record(make_record(seed=3, score=0.7), tmp_path / "runs" / "3")
        watch(make, 0, console, rounds=3)
    assert seen[0] == ""
    assert "70.0" in seen[1]
    assert seen[1].count("1 finished, 0 unfinished, 0 skipped") == 1
    assert seen[2].count("1 finished, 0 unfinished, 0 skipped") == 2
    assert seen[2].count("70.0") == 1  # an unchanged table is not repeated


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf", "soon"])
def test_a_pause_is_a_number_of_seconds(seconds, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--watch", seconds])
    assert f"--watch: {seconds} is invalid: expected seconds above 0" in capsys.readouterr().err


def test_the_view_waits_for_the_first_run(tmp_path):
    console = Console(record=True, width=120)
    watch(lambda: make_report(RunLoader().load([tmp_path]), ReportSpec()), 0, console, rounds=1)
    assert "holds no run" in " ".join(console.export_text().split())  # a long path wraps the line


def test_ctrl_c_ends_the_view(make_record, tmp_path):
    write_record(make_record(), tmp_path)
    calls = []

    def make():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return make_report(RunLoader().load([tmp_path]), ReportSpec())

    watch(make, 0, Console(record=True))
    assert len(calls) == 2


def test_skipped_and_unfinished_runs_of_another_source_count(make_record):
    loaded = RunLoader().load(
        [],
        [
            SkippedRun("elsewhere", "is invalid"),
            None,
            *wandb_runs.load_wandb_runs("team/rlora", Api([Run(1, make_record())])),
        ],
    )
    assert (len(loaded.scores), loaded.unfinished, loaded.skipped) == (
        1,
        1,
        [SkippedRun("elsewhere", "is invalid")],
    )
