"""Runs on Weights & Biases are read like those on the disk; and the table while runs finish."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from rlora.records.record import RECORD_FILE, write_record
from rlora.reports import wandb_runs
from rlora.reports.load import Problem, Reader
from rlora.reports.report import Question, report
from rlora.reports.watch import watch


class Run:
    """What `wandb.Api().runs()` gives, as far as it is used."""

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


def test_records_are_taken_and_the_rest_is_told(made):
    runs = [
        Run(1, made(seed=1)),
        Run(2, made(seed=2)),
        Run(3),
        Run(4, state="crashed"),
        Run(5, state="running"),
    ]
    reading = Reader().read([], wandb_runs.found("team/rlora", Api(runs)))
    assert [run.facts["seed"] for run in reading.runs] == [1, 2]
    assert reading.unfinished == 1
    told = {problem.place: problem.reason for problem in reading.problems}
    assert told == {
        "wandb:team/rlora/r3": f"holds no {RECORD_FILE}: it was logged by another program or an older version",
        "wandb:team/rlora/r4": "crashed",
    }
    assert len(list(wandb_runs.found("team/rlora/sweeps/abc", Api(runs)))) == 1


def test_a_project_that_cannot_be_read_is_told():
    with pytest.raises(ValueError, match="--wandb nobody/x cannot be read: Could not find project"):
        list(wandb_runs.found("nobody/x", Api([])))


def test_the_table_grows_while_runs_finish(made, tmp_path):
    reader, console = Reader(), Console(record=True, width=120, force_terminal=False)
    arriving = iter([made(seed=1, score=0.5), made(seed=2, score=0.6)])

    def ask():
        answer = report(reader.read([tmp_path]), Question())
        if (record := next(arriving, None)) is not None:
            write_record(record, tmp_path / str(record.run.seed))
        return answer

    write_record(made(seed=3, score=0.7), tmp_path / "3")
    watch(ask, 0, console, rounds=3)
    shown = console.export_text()
    assert "3 finished, 0 unfinished, 0 left out" in shown
    assert "60.0 ± 10.0" in shown


def test_waiting_for_the_first_run_is_no_error(tmp_path):
    console = Console(record=True, width=120)
    watch(lambda: report(Reader().read([tmp_path]), Question()), 0, console, rounds=1)
    assert "holds no run" in " ".join(console.export_text().split())  # a long path wraps the line


def test_ctrl_c_ends_it(made, tmp_path):
    write_record(made(), tmp_path)
    times = []

    def ask():
        times.append(1)
        if len(times) == 2:
            raise KeyboardInterrupt
        return report(Reader().read([tmp_path]), Question())

    watch(ask, 0, Console(record=True))
    assert len(times) == 2


def test_problems_of_other_places_count(made):
    reading = Reader().read(
        [],
        [Problem("here", "is odd"), None, *wandb_runs.found("team/rlora", Api([Run(1, made())]))],
    )
    assert (len(reading.runs), reading.unfinished, reading.problems) == (
        1,
        1,
        [Problem("here", "is odd")],
    )
