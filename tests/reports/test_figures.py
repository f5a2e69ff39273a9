"""Figures: their data, and the files and specifications drawn from it."""

from dataclasses import replace

import pytest

from rlora.reports.figures import matplotlib_plots, series, vega_charts
from rlora.reports.figures.size_plot import short_number
from rlora.reports.load import RunLoader
from rlora.reports.pivot import PivotSpec, pivot
from rlora.reports.report import ReportSpec, make_report


def with_history(record, scores):
    history = [{"epoch": i, "validation/accuracy": score} for i, score in enumerate(scores)]
    return replace(record, training=replace(record.training, history=history))


def pivot_of(folder):
    return pivot(RunLoader().load([folder]).scores, PivotSpec())


@pytest.fixture
def report(make_record, write_runs):
    """A report of runs with learning curves and a certificate."""
    records = [
        with_history(
            make_record(adapter=adapter, seed=seed, score=0.6 + 0.1 * number),
            [0.5, 0.6 + 0.01 * seed],
        )
        for number, adapter in enumerate(("head", "rlora", "lora"))
        for seed in (1, 2)
    ]
    records[-1].certificate = {
        "bound": 0.3, "risk": 0.2, "by_group": {"bound": 0.4}, "kl": 1.0, "rows": 9,
        "baseline": {"reason": "none"}, "test": {"test": {"mean": 0.25}},
    }  # fmt: skip
    return make_report(RunLoader().load([write_runs(records)]), ReportSpec())


def test_a_curve_is_the_mean_with_extremes_over_the_runs_that_reached_the_epoch(
    make_record, write_runs
):
    records = [
        with_history(make_record(seed=1), [0.5, 0.6]),
        with_history(make_record(seed=2), [0.7]),
    ]
    rows = series.learning_curves(pivot_of(write_runs(records)))
    common = {"row": "lora", "column": "rte", "unit": "%"}
    assert rows == [
        {**common, "epoch": 1, "mean": pytest.approx(60), "low": 50, "high": 70, "n": 2},
        {**common, "epoch": 2, "mean": 60, "low": 60, "high": 60, "n": 1},
    ]


def test_a_single_epoch_makes_no_curve(make_record, write_runs):
    assert series.learning_curves(pivot_of(write_runs([with_history(make_record(), [0.5])]))) == []


def test_the_pareto_front_holds_rows_that_no_smaller_row_beats(study_folder):
    rows = series.scores_by_size(pivot_of(study_folder))
    front = {(row["column"], row["row"]) for row in rows if row["pareto"]}
    assert front == {
        ("mrpc", "head"),
        ("mrpc", "rlora"),
        ("mrpc", "lora"),
        ("rte", "head"),
        ("rte", "rlora"),
    }
    assert {row["row"]: row["parameters"] for row in rows} == {
        "head": 66,
        "lora": 73_728 + 66,
        "rlora": 9_216 + 66,
    }


def test_the_mean_over_tasks_has_the_spread_of_the_seeds(study_folder):
    rows = {row["row"]: row for row in series.mean_scores_by_size(pivot_of(study_folder))}
    assert {row["column"] for row in rows.values()} == {"mean of 2 tasks"}
    assert rows["rlora"]["score"] == pytest.approx(100 * (0.64 + 0.80) / 2)
    assert rows["rlora"]["sd"] == pytest.approx(1.5)  # means of 70.5, 72 and 73.5
    assert (rows["rlora"]["n"], rows["rlora"]["parameters"]) == (3, 9_216 + 66)
    assert [name for name, row in rows.items() if row["pareto"]] == ["head", "rlora"]


def test_an_incomplete_table_has_no_mean_over_tasks(study_folder):
    for number in range(3):  # all runs of head on rte
        (study_folder / str(number) / "results.json").unlink()
    assert series.mean_scores_by_size(pivot_of(study_folder)) == []


def test_a_row_without_trainable_parameters_is_left_out(make_record, write_runs):
    untrained = make_record(adapter="head")
    untrained.parameters.head = 0
    folder = write_runs([untrained, make_record(adapter="lora")])
    assert [row["row"] for row in series.scores_by_size(pivot_of(folder))] == ["lora"]


def test_a_certificate_without_a_baseline_shows_the_rest(report):
    rows = series.certificates(report.scores)
    assert [(row["quantity"], row["percent"], row["error"]) for row in rows] == [
        ("bound", 30, 25),
        ("posterior risk", 20, 25),
    ]


def test_all_figures_are_written_and_curves_hold_the_data(report, tmp_path):
    names = {"learning_curves", "score_and_size", "time", "memory", "certificates"}
    figures = matplotlib_plots.figures(report)
    files = matplotlib_plots.write(figures, tmp_path / "plots")
    assert {file.name for file in files} == {
        f"{name}.{suffix}" for name in names for suffix in ("pdf", "png")
    }
    assert all(file.stat().st_size > 1000 for file in files)
    (axis,) = figures["learning_curves"].axes
    assert [line.get_label() for line in axis.lines] == ["head", "lora", "rlora"]
    assert list(axis.lines[0].get_ydata()) == pytest.approx([50, 61.5])


def test_a_figure_without_data_is_left_out(study_folder):
    report = make_report(RunLoader().load([study_folder]), ReportSpec())
    assert set(matplotlib_plots.figures(report)) == {"score_and_size", "time", "memory"}
    assert len(vega_charts.specifications(report)) == 3


def test_labels_of_the_size_figure_name_every_row_without_overlap(study_folder):
    report = make_report(RunLoader().load([study_folder]), ReportSpec())
    figure = matplotlib_plots.figures(report)["score_and_size"]
    overview, *tasks = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["mean of 2 tasks", "mrpc", "rte"]
    assert {axis.get_xscale() for axis in figure.axes} == {"log"}
    labels = [text for text in overview.texts if text.get_text() in {"head", "lora", "rlora"}]
    boxes = [label.get_window_extent() for label in labels]
    assert len(labels) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert not any(axis.texts for axis in tasks)


@pytest.mark.parametrize(
    ("value", "text"), [(100, "100"), (1_000, "1K"), (1.5e6, "1.5M"), (2e9, "2B")]
)
def test_tick_labels_are_short(value, text):
    assert short_number(value) == text


def test_specifications_hold_the_same_data(report):
    specifications = vega_charts.specifications(report)
    assert len(specifications) == 5
    curves = specifications["Learning curves: validation score by epoch"]
    assert curves["data"]["values"] == series.learning_curves(report.pivot)
    assert all(
        specification["$schema"].startswith("https://vega.github.io")
        for specification in specifications.values()
    )
