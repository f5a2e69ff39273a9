"""Folders of searches: reported without a flag, and by validation scores only."""

import pytest

from rlora.reports.__main__ import main
from rlora.reports.load import RunLoader
from rlora.reports.report import ReportSpec, make_report


def trial(make_record, lr, validation, seed=1, *, hparams="learning_rate", tested=True, **kwargs):
    record = make_record(
        seed=seed, validation=validation, score=kwargs.pop("score", 0.5), optimizer={"lr": lr},
        choices={"hparams": hparams}, **kwargs,
    )  # fmt: skip
    if not tested:
        del record.scores["test/accuracy"]
    return record


def report(write_runs, records, spec=None):
    return make_report(RunLoader().load([write_runs(records)]), spec or ReportSpec())


def titles(result):
    return [table.title for table in result.tables]


def test_a_search_reports_what_validation_chose(make_record, write_runs):
    records = [
        trial(make_record, 0.1, 0.6, score=0.50),
        trial(make_record, 0.2, 0.8, score=0.55),
        trial(make_record, 0.3, 0.7, score=0.90),  # the best on test is not what counts
        trial(make_record, 0.1, 0.9, score=0.65, adapter="rlora"),
    ]
    result = report(write_runs, records)
    scores, choices = result.tables[:2]
    assert [row[:3] for row in scores.rows] == [
        ["lora", "73,728", "55.0"],
        ["rlora", "9,216", "65.0"],
    ]
    assert any("optimizer.lr: the values with the best" in note for note in scores.notes)
    assert choices.title == "Choices on the validation split"
    assert choices.rows == [
        ["lora", "0.1", "60.0 (1)"],
        ["lora", "0.2", "80.0 (1) *"],
        ["lora", "0.3", "70.0 (1)"],
        ["rlora", "0.1", "90.0 (1) *"],
    ]


def test_a_search_without_test_scores_reports_validation(make_record, write_runs, tmp_path, capsys):
    """Such a folder needed --split, --rows and --choose."""
    records = [trial(make_record, lr, lr, tested=False) for lr in (0.1, 0.2)]
    main([str(write_runs(records))])
    output = capsys.readouterr().out
    assert "Scores on the validation split" in output
    assert "Choices on the validation split" in output


def test_the_mark_of_a_choice_is_no_markup(make_record, write_runs, tmp_path):
    records = [trial(make_record, lr, lr) for lr in (0.1, 0.2)]
    main([str(write_runs(records)), "--markdown", str(tmp_path / "table.md")])
    assert r"| lora | 0.2 | **20.0 (1) \*** |" in (tmp_path / "table.md").read_text()


def test_a_grid_gets_rows_by_the_keys_that_differ(make_record, write_runs):
    records = [
        trial(make_record, lr, 0.5, seed=seed, hparams=None) for lr in (0.1, 0.2) for seed in (1, 2)
    ]
    result = report(write_runs, records)
    scores = result.tables[0]
    assert scores.header[:2] == ["adapter", "lr"]
    assert [row[:2] for row in scores.rows] == [["lora", "0.1"], ["lora", "0.2"]]
    assert any("--choose optimizer.lr keeps" in note for note in scores.notes)
    assert "Choices on the validation split" not in titles(result)


def test_values_that_were_asked_for_have_the_table_of_choices(make_record, write_runs):
    records = [trial(make_record, lr, lr, hparams=None) for lr in (0.1, 0.2)]
    result = report(write_runs, records, ReportSpec(choose=("optimizer.lr",)))
    assert [row[0] for row in result.tables[0].rows] == ["lora"]
    assert "Choices on the validation split" in titles(result)


def test_folders_of_runs_do_not_tell_runs_apart(make_record, write_runs):
    """The run folders' own paths came first among the keys in which runs differ."""
    records = []
    for number in range(2):
        record = make_record(
            seed=1,
            callbacks={"best": {"dirpath": f"/runs/{number}/checkpoints", "patience": number}},
            trainer={"default_root_dir": f"/runs/{number}", "max_epochs": number},
            paths={"run": f"/runs/{number}"},
            model={"checkpoint": "/models/a"},
        )
        record.run.directory = f"/runs/{number}"
        records.append(record)
    scores = report(write_runs, records).tables[0]
    (note,) = [note for note in scores.notes if note.startswith("runs differ in")]
    assert note.startswith("runs differ in trainer.max_epochs, callbacks.best.patience, which")


def test_runs_that_differ_in_everything_raise(make_record, write_runs):
    records = [
        make_record(optimizer={f"k{key}": number for key in range(9)}) for number in range(2)
    ]
    with pytest.raises(ValueError, match=r"they differ in optimizer.k0, .*: add these keys to"):
        report(write_runs, records)
