"""Reading: each run once, wherever it lies, and what cannot count is named, counted and left out."""

import json
import math
from dataclasses import replace

import pytest

from rlora.records.record import RECORD_FILE, write_record
from rlora.reports.load import Reader, csv_text


def read(*paths, split="test"):
    return Reader(split).read(paths)


def reasons(reading):
    return sorted(problem.reason for problem in reading.problems)


def test_a_run_counts_once_wherever_it_is_found(study, made, tmp_path):
    for record in (made(seed=1), made(seed=9)):
        study.append(record, tmp_path / "kept" / study.RECORDS)
    found = read(study, tmp_path, study / "0" / RECORD_FILE, tmp_path / "kept" / study.RECORDS)
    assert len(found.runs) == 18 + 1
    assert found.problems == []


def test_a_run_that_was_repeated_counts_as_last_and_is_told(made, written):
    early, late = made(score=0.1, started="2026-01-01"), made(score=0.2, started="2026-01-02")
    for order in ((early, late), (late, early)):
        found = read(written(order))
        assert [run.score for run in found.runs] == [0.2]
        assert reasons(found) == ["the same run was repeated on 2026-01-02, which counts"]


def test_what_a_run_keeps_within_its_folder_is_no_run(study, made):
    write_record(made(seed=7), study / "0" / "prior")
    assert len(read(study).runs) == 18


def test_hydras_own_folder_is_no_run(study):
    (study / "99" / ".hydra").mkdir(parents=True)
    (study / "99" / ".hydra" / "config.yaml").write_text("seed: 0\n")
    assert read(study).unfinished == 0


def test_broken_old_unscored_and_failed_runs_are_named(made, written, tmp_path):
    folder = written([made(seed=1), made(seed=2, score=math.nan), made(seed=3)])
    unscored = made(seed=4)
    write_record(replace(unscored, scores={"validation/accuracy": 0.5}), folder / "unscored")
    for name, text in {
        "broken": '{"run": ',
        "old": '{"schema": 0}',
        "list": "[]",
        "wrong": json.dumps({"schema": 1, "scores": []}),
        "bytes": "\x00\x01",
    }.items():
        (folder / name).mkdir()
        (folder / name / RECORD_FILE).write_text(text)
    (folder / "failed").mkdir()
    (folder / "failed" / "error.log").write_text("Traceback\nValueError: no such thing\n")
    (folder / "running").mkdir()
    (folder / "running" / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "records.jsonl").write_text('{"schema": 0}\nnonsense\n')
    found = read(folder, tmp_path / "records.jsonl", tmp_path / "nowhere")
    assert [run.facts["seed"] for run in found.runs] == [1, 3]
    assert found.unfinished == 1
    told = reasons(found)
    assert len(told) == 2 + 5 + 1 + 2 + 1
    for part in (
        "its test/accuracy is nan",
        "has no score test/accuracy: leave it out",
        "cannot be read as a run record",
        "has record schema 0, this version reads schema 1",
        "has record schema None",
        "failed: ValueError: no such thing",
        "does not exist: give a folder",
    ):
        assert any(part in reason for reason in told), part
    assert any(problem.place.endswith("records.jsonl, line 2") for problem in found.problems)


def test_no_run_at_all_is_an_error_that_says_why(tmp_path, made, written):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"no finished run to report: .*empty holds no run: give a folder"
    ):
        read(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"no finished run to report: .*its test/accuracy is inf"):
        read(written([made(score=math.inf)]))


def test_a_reader_sees_what_came_since(made, written, tmp_path):
    reader = Reader()
    assert len(reader.read([written([made(seed=1)])]).runs) == 1
    write_record(made(seed=2), tmp_path / "runs" / "later")
    assert len(reader.read([tmp_path / "runs"]).runs) == 2


def test_the_csv_has_a_line_for_each_run_unrounded(made, written):
    import csv
    import io

    runs = read(written([made(seed=1, score=1 / 3), made(seed=2, adapter="rlora", lr=0.1)])).runs
    rows = list(csv.DictReader(io.StringIO(csv_text(runs))))
    assert [
        (row["adapter"], row["seed"], float(row["test/accuracy"]), row["lr"]) for row in rows
    ] == [
        ("lora", "1", 1 / 3, ""),
        ("rlora", "2", 0.6, "0.1"),
    ]
    assert rows[0]["parameters.adapter"] == "73728"
