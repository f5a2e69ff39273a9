"""Commits, code and data of the records, and separate rows of published records."""

from dataclasses import replace

import pytest

from rlora.records.study import append_record
from rlora.reports.__main__ import main
from rlora.reports.load import RunLoader
from rlora.reports.report import ReportSpec, make_report


def notes(write_runs, records):
    result = make_report(RunLoader().load([write_runs(records)]), ReportSpec())
    return result.tables[0].notes


def with_commit(record, commit, *, dirty=False, code=""):
    record.environment = replace(record.environment, git_commit=commit, git_dirty=dirty)
    record.run.code = code
    return record


def test_several_commits_are_listed_with_their_counts(make_record, write_runs):
    records = [
        with_commit(make_record(seed=1), "a" * 40),
        with_commit(make_record(seed=2), "a" * 40),
        with_commit(make_record(seed=3), "b" * 40, dirty=True),
        with_commit(make_record(seed=4), None),
    ]
    assert (
        "commits of the records: aaaaaaaa (2 runs), bbbbbbbb with uncommitted changes (1 run), "
        "unknown (1 run)"
    ) in notes(write_runs, records)


def test_one_clean_commit_needs_no_note(make_record, write_runs):
    records = [with_commit(make_record(seed=seed), "a" * 40) for seed in (1, 2)]
    assert not any("commit" in note for note in notes(write_runs, records))


def test_uncommitted_changes_of_one_commit_are_noted(make_record, write_runs):
    records = [with_commit(make_record(), "a" * 40, dirty=True)]
    expected = "commits of the records: aaaaaaaa with uncommitted changes (1 run)"
    assert expected in notes(write_runs, records)


def test_changed_code_behind_the_results_is_a_warning(make_record, write_runs):
    """A digest covers the adapter's modules, so that adapters differ without any change."""
    records = [
        with_commit(make_record(seed=seed), "a" * 40, code=code)
        for seed, code in enumerate(("c" * 64, "c" * 64, "d" * 64, ""))
    ]
    records.append(with_commit(make_record(adapter="rlora"), "a" * 40, code="e" * 64))
    assert [note for note in notes(write_runs, records) if note.startswith("warning")] == [
        "warning: the code behind the results of lora on rte has changed between runs: "
        "cccccccc (2 runs), dddddddd (1 run), unknown (1 run)"
    ]


def test_a_superseded_run_says_what_has_changed(make_record, write_runs):
    records = [make_record(started=f"2026-01-0{day}") for day in (1, 2)]
    records[1].data = {**records[1].data, "fingerprint": "other"}
    records[1].run.code = "c" * 64
    (skipped,) = RunLoader().load([write_runs(records)]).skipped
    assert skipped.reason == (
        "superseded: the same run was repeated on 2026-01-02, on other data, by other code"
    )


def test_other_data_of_the_same_task_is_a_warning(make_record, write_runs):
    records = [make_record(adapter=adapter, seed=1) for adapter in ("lora", "rlora")]
    records[1].data = {**records[1].data, "fingerprint": "other"}
    (warning,) = [note for note in notes(write_runs, records) if note.startswith("warning")]
    assert warning == (
        "warning: the data of task rte differ between runs, so that scores are not comparable: "
        "fingerprint ab (lora seed 1); fingerprint other (rlora seed 1)"
    )


def test_other_samples_of_the_same_data_are_no_warning(make_record, write_runs):
    records = [make_record(seed=seed) for seed in (1, 2)]
    for number, record in enumerate(records):
        record.data = {"fingerprint": str(number), "shots": 16, "sample_seed": number}
    assert not any(note.startswith("warning") for note in notes(write_runs, records))


def test_other_weights_of_the_same_model_are_a_warning(make_record, write_runs):
    records = [make_record(adapter=adapter) for adapter in ("lora", "rlora")]
    records[1].backbone = {**records[1].backbone, "fingerprint": "other"}
    (warning,) = [note for note in notes(write_runs, records) if note.startswith("warning")]
    assert warning.startswith("warning: the weights of model minilm differ between runs")


@pytest.fixture
def published(make_record, tmp_path):
    """A file of published records: better than all others, with other seeds."""
    file = tmp_path / "published" / "records.jsonl"
    for adapter, seed, score in (("lora", 7, 0.95), ("lora", 8, 0.97), ("vera", 7, 0.9)):
        append_record(make_record(adapter=adapter, seed=seed, score=score), file)
    append_record(make_record("sst2", "lora", 7, 0.9), file)  # not in the user's table
    return file


def test_published_records_have_separate_rows(study_folder, published, tmp_path):
    table = tmp_path / "table.md"
    main([str(study_folder), "--baseline", "lora", "--markdown", str(table)])
    before = table.read_text().splitlines()
    arguments = ["--baseline", "lora", "--reference", str(published)]
    main([str(study_folder), *arguments, "--markdown", str(table)])
    after = table.read_text().splitlines()
    added = [line for line in after if line not in before]
    assert added == [
        "| lora (published) | 73,728 |  | 96.0 ± 1.4 (2) |  |  |",
        "| vera (published) | 100 |  | 90.0 (1) |  |  |",
        "(published): 3 published runs of 2026-01-01, not runs of yours; number of runs in "
        "brackets; they have no part in tests, ranks and bold cells.",
    ]
    assert [line for line in before if line not in after] == []


def test_published_records_meet_the_same_conditions(study_folder, published, tmp_path):
    table = tmp_path / "table.md"
    arguments = ["--where", "adapter=head|lora", "--reference", str(published)]
    main([str(study_folder), *arguments, "--markdown", str(table)])
    text = table.read_text()
    assert "| lora (published) |" in text
    assert "vera" not in text


def test_published_runs_under_the_users_own_and_other_data_are_noted(
    make_record, published, tmp_path
):
    own = tmp_path / "own" / "records.jsonl"
    append_record(make_record(adapter="lora", seed=7, score=0.95), own)
    other = make_record(adapter="rlora", seed=7)
    other.data = {**other.data, "fingerprint": "other"}
    append_record(other, own)
    table = tmp_path / "table.md"
    main([str(own), "--reference", str(published), "--markdown", str(table)])
    text = table.read_text()
    assert "Warning: 1 of the runs that are reported as yours are published ones." in text


def test_published_runs_on_other_data_are_noted(make_record, published, tmp_path):
    own = make_record(adapter="rlora", seed=7)
    own.data = {**own.data, "fingerprint": "other"}
    append_record(own, tmp_path / "own" / "records.jsonl")
    table = tmp_path / "table.md"
    main([str(tmp_path / "own"), "--reference", str(published), "--markdown", str(table)])
    assert "the data of task rte differ from those of the published runs" in table.read_text()


def test_published_runs_that_no_key_tells_apart_are_named(make_record, study_folder, tmp_path):
    file = tmp_path / "published" / "records.jsonl"
    for rank in (1, 4):
        append_record(make_record(adapter="lora", seed=1, rank=rank), file)
    with pytest.raises(SystemExit, match="--reference: several runs have adapter=lora"):
        main([str(study_folder), "--reference", str(file)])


def test_a_reference_without_records_is_one_sentence(study_folder, tmp_path):
    with pytest.raises(SystemExit, match="nowhere does not exist"):
        main([str(study_folder), "--reference", str(tmp_path / "nowhere")])
