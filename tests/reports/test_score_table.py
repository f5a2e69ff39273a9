"""The main table: what is bold, what the columns are called, and the majority class."""

from dataclasses import replace

import pytest

from rlora.reports.extra_rows import majority_score
from rlora.reports.load import RunLoader
from rlora.reports.report import ReportSpec, make_report

EIGHT = ("head", "bitfit", "vera", "rlora", "nola", "lora", "randlora", "full")


@pytest.fixture
def table_of(make_record, write_runs):
    """Function (scores by adapter, one per seed): the main table of their report."""

    def make(scores, **facts):
        records = [
            make_record(adapter=adapter, seed=seed, score=score)
            for adapter, values in scores.items()
            for seed, score in enumerate(values)
        ]
        for record in records:
            record.data.update(facts)
        return make_report(RunLoader().load([write_runs(records)]), ReportSpec()).tables[0]

    return make


def bold_texts(table):
    return {table.rows[row][column] for row, column in table.bold}


def test_no_cell_is_bold_among_equals(table_of):
    """Eight adapters that all predict the majority class were all bold."""
    table = table_of(dict.fromkeys(EIGHT, (0.684, 0.684, 0.684)))
    assert table.bold == set()
    assert any(note.startswith("none is bold") for note in table.notes)


def test_equal_numbers_are_treated_alike(table_of):
    """78.7 was bold above a 78.7 that was not."""
    scores = {"lora": (0.500, 0.501, 0.502), "nola": (0.785, 0.788, 0.7881)}
    table = table_of({**scores, "rlora": (0.785, 0.788, 0.7883)})
    assert [row[2] for row in table.rows] == ["50.1 ± 0.1", "78.7 ± 0.2", "78.7 ± 0.2"]
    assert table.bold == set()
    assert [row[3] for row in table.rows] == ["3.00", "1.50", "1.50"]


def test_only_a_row_that_the_test_separates_from_all_others_is_bold(table_of):
    scores = {"head": (0.50, 0.52, 0.51), "lora": (0.70, 0.71, 0.72)}
    assert bold_texts(table_of(scores)) == {"71.0 ± 1.0"}
    assert bold_texts(table_of({**scores, "rlora": (0.69, 0.72, 0.73)})) == set()
    assert bold_texts(table_of({**scores, "rlora": (0.78, 0.78, 0.80)})) == {"78.7 ± 1.2"}


def test_equal_differences_make_nothing_bold(table_of):
    """One more right in each of three seeds is no evidence about a fourth."""
    right = (150, 157, 181)
    scores = {"lora": [n / 277 for n in right], "rlora": [(n + 1) / 277 for n in right]}
    assert table_of(scores).bold == set()


def test_a_single_seed_makes_nothing_bold(table_of):
    table = table_of({"lora": (0.6,), "rlora": (0.9,)})
    assert table.bold == set()
    assert any("they need two seeds or more" in note for note in table.notes)


def test_columns_name_their_metric(table_of):
    assert table_of({"lora": (0.6,)}).header[1:] == [
        "trainable parameters (adapter)",
        "rte (accuracy)",
    ]


def test_equal_scores_leave_no_interval(make_record, write_runs):
    records = [make_record(seed=seed, score=0.684) for seed in (1, 2, 3)]
    spec = ReportSpec(pivot=replace(ReportSpec().pivot, spread="interval"))
    table = make_report(RunLoader().load([write_runs(records)]), spec).tables[0]
    assert table.rows[0][2] == "68.4 –"
    assert any("the scores are equal in all runs" in note for note in table.notes)


def test_the_majority_class_has_a_row_where_records_know_it(table_of):
    counts = {"test": {"0": 129, "1": 279}, "validation": {"0": 1, "1": 1}}
    table = table_of({"lora": (0.70,), "rlora": (0.69,)}, label_counts=counts)
    assert table.rows[-1] == ["majority class", "", "68.4", ""]
    assert any(note.startswith("majority class: the most frequent") for note in table.notes)


def test_records_without_label_counts_have_no_majority_class(table_of):
    assert [row[0] for row in table_of({"lora": (0.7,)}).rows] == ["lora"]


@pytest.mark.parametrize(
    ("metric", "counts", "expected"),
    [
        ("accuracy", {"a": 1, "b": 2, "c": 1}, 0.5),
        ("matthews", {"0": 1, "1": 3}, 0.0),
        ("f1", {"0": 1, "1": 3}, 2 * 0.75 / 1.75),
        ("f1", {"0": 3, "1": 1}, 0.0),
        ("f1", {"a": 1, "b": 2, "c": 1}, None),
        ("pearson", {"0": 1}, None),
        ("accuracy", {}, None),
        ("accuracy", "many", None),
    ],
)
def test_the_score_of_the_majority_class(make_record, write_runs, metric, counts, expected):
    record = make_record()
    record.scores[f"test/{metric}"] = 0.5
    record.data["label_counts"] = {"test": counts}
    (score,) = RunLoader(metrics=[metric]).load([write_runs([record])]).scores
    assert majority_score(score) == expected
