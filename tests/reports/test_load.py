"""Loading of runs: each run counts once, and a run that cannot count is skipped with a reason."""

import json
import math
from dataclasses import replace

import pytest

from rlora.records.record import RECORD_FILE, STUDY_FILE, write_record
from rlora.records.study import append_record
from rlora.reports.load import RunLoader
from rlora.reports.render import csv_text


def load(*paths, split="test"):
    return RunLoader(split).load(paths)


def with_score(folder, value):
    """Give a run the score of a record of an earlier version, which was not always finite."""
    file = folder / RECORD_FILE
    raw = json.loads(file.read_text())
    raw["scores"]["test/accuracy"] = value
    file.write_text(json.dumps(raw))
    return folder


def reasons(loaded):
    return sorted(run.reason for run in loaded.skipped)


def test_a_run_counts_once_even_if_it_is_found_in_several_places(
    study_folder, make_record, tmp_path
):
    study_file = tmp_path / "kept" / STUDY_FILE
    for record in (make_record(seed=1), make_record(seed=9)):
        append_record(record, study_file)
    loaded = load(study_folder, tmp_path, study_folder / "0" / RECORD_FILE, study_file)
    assert len(loaded.scores) == 18 + 1
    assert loaded.skipped == []


def test_of_a_repeated_run_the_last_one_counts_and_the_first_is_skipped(make_record, write_runs):
    early, late = (
        make_record(score=0.1, started="2026-01-01"),
        make_record(score=0.2, started="2026-01-02"),
    )
    for order in ((early, late), (late, early)):
        loaded = load(write_runs(order))
        assert [score.value for score in loaded.scores] == [0.2]
        assert reasons(loaded) == ["superseded: the same run was repeated on 2026-01-02"]


def test_a_record_inside_a_run_folder_is_no_run(study_folder, make_record):
    write_record(make_record(seed=7), study_folder / "0" / "prior")
    assert len(load(study_folder).scores) == 18


def test_the_folder_of_hydra_is_no_run(study_folder):
    (study_folder / "99" / ".hydra").mkdir(parents=True)
    (study_folder / "99" / ".hydra" / "config.yaml").write_text("seed: 0\n")
    assert load(study_folder).unfinished == 0


def test_broken_outdated_unscored_and_failed_runs_are_skipped(make_record, write_runs, tmp_path):
    folder = write_runs([make_record(seed=1), make_record(seed=2), make_record(seed=3)])
    with_score(folder / "1", math.nan)
    unscored = make_record(seed=4)
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
    loaded = load(folder, tmp_path / "records.jsonl", tmp_path / "nowhere")
    assert [score.settings["seed"] for score in loaded.scores] == [1, 3]
    assert loaded.unfinished == 1
    skipped = reasons(loaded)
    assert len(skipped) == 2 + 5 + 1 + 2 + 1
    for part in (
        "its test/accuracy is nan",
        "has no score test/accuracy: expected another --split or --metric",
        "cannot be read as a run record",
        "has record schema 0: this version reads schema 2",
        "has record schema None",
        "failed: ValueError: no such thing",
        "does not exist: expected a folder",
    ):
        assert any(part in reason for reason in skipped), part
    assert any(run.source.endswith("records.jsonl, line 2") for run in loaded.skipped)


def test_no_scored_run_at_all_raises_with_the_reasons(tmp_path, make_record, write_runs):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"no finished run to report: .*empty holds no run: expected a folder"
    ):
        load(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"no finished run to report: .*its test/accuracy is inf"):
        load(with_score(write_runs([make_record()]) / "0", math.inf))


def test_a_loader_sees_runs_that_finished_since_its_last_call(make_record, write_runs, tmp_path):
    loader = RunLoader()
    assert len(loader.load([write_runs([make_record(seed=1)])]).scores) == 1
    write_record(make_record(seed=2), tmp_path / "runs" / "later")
    assert len(loader.load([tmp_path / "runs"]).scores) == 2


def test_the_csv_has_an_unrounded_line_per_run(make_record, write_runs):
    import csv
    import io

    scores = load(
        write_runs([make_record(seed=1, score=1 / 3), make_record(seed=2, adapter="rlora", lr=0.1)])
    ).scores
    rows = list(csv.DictReader(io.StringIO(csv_text(scores))))
    assert [
        (row["adapter"], row["seed"], float(row["test/accuracy"]), row["lr"]) for row in rows
    ] == [
        ("lora", "1", 1 / 3, ""),
        ("rlora", "2", 0.6, "0.1"),
    ]
    assert rows[0]["parameters.adapter"] == "73728"
