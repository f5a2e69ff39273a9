"""Figures: their data, and the files and specifications drawn from it."""

import json
import math
from dataclasses import replace

import altair
import pytest

from rlora.reports.figures import matplotlib_plots, series, vega_charts
from rlora.reports.figures.labels import spread
from rlora.reports.figures.style import row_colors, short_number, size_axis
from rlora.reports.load import RunLoader
from rlora.reports.names import ADAPTERS, color_of, shade
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
    common = {"row": "lora", "column": "rte", "metric": "accuracy", "unit": "%"}
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
        ("mrpc (accuracy)", "head"),
        ("mrpc (accuracy)", "rlora"),
        ("mrpc (accuracy)", "lora"),
        ("rte (accuracy)", "head"),
        ("rte (accuracy)", "rlora"),
    }
    assert {row["row"]: row["parameters"] for row in rows} == {
        "head": 0,
        "lora": 73_728,
        "rlora": 9_216,
    }


def test_the_mean_over_tasks_has_the_spread_of_the_seeds(study_folder):
    rows = {row["row"]: row for row in series.mean_scores_by_size(pivot_of(study_folder))}
    assert {row["column"] for row in rows.values()} == {"mean of 2 tasks"}
    assert rows["rlora"]["score"] == pytest.approx(100 * (0.64 + 0.80) / 2)
    assert rows["rlora"]["sd"] == pytest.approx(1.5)  # means of 70.5, 72 and 73.5
    assert (rows["rlora"]["n"], rows["rlora"]["parameters"]) == (3, 9_216)
    assert [name for name, row in rows.items() if row["pareto"]] == ["head", "rlora"]


def test_an_incomplete_table_has_no_mean_over_tasks(study_folder):
    for number in range(3):  # all runs of head on rte
        (study_folder / str(number) / "results.json").unlink()
    assert series.mean_scores_by_size(pivot_of(study_folder)) == []


def test_an_adapter_without_parameters_has_a_place_left_of_the_log_scale(make_record, write_runs):
    folder = write_runs([make_record(adapter="head"), make_record(adapter="lora")])
    rows = series.scores_by_size(pivot_of(folder))
    assert [(row["row"], row["parameters"]) for row in rows] == [("head", 0), ("lora", 73_728)]
    axis = size_axis([row["parameters"] for row in rows])
    assert axis.low < axis.position(0) < axis.position(73_728) == math.log10(73_728) < axis.high
    assert axis.ticks[axis.position(0)] == "0"


def test_without_any_adapter_parameters_there_is_no_size_figure(make_record, write_runs):
    assert series.scores_by_size(pivot_of(write_runs([make_record(adapter="head")]))) == []


@pytest.mark.parametrize(
    ("parameters", "labels"),
    [
        ([18_432], ["18.4K"]),
        ([18_432, 18_432], ["18.4K"]),
        ([7_680, 73_728], ["10K", "20K", "50K"]),
        ([0, 7_680, 73_728], ["0", "10K", "20K", "50K"]),
        ([100, 2e7], ["100", "10K", "1M"]),
    ],
)
def test_ticks_are_few_round_numbers(parameters, labels):
    assert list(size_axis(parameters, most_ticks=4).ticks.values()) == labels


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
    assert [line.get_label() for line in axis.lines] == ["head only", "LoRA", "RLoRA"]
    assert list(axis.lines[0].get_ydata()) == pytest.approx([50, 61.5])


def test_epochs_are_whole_numbers_and_lines_have_their_names(report):
    """Two epochs once had the ticks 1.0, 1.2, and a legend covered the curves."""
    figure = matplotlib_plots.figures(report)["learning_curves"]
    (axis,) = figure.axes
    assert all(float(tick).is_integer() for tick in axis.get_xticks())
    assert [text.get_text() for text in axis.texts] == ["head only", "LoRA", "RLoRA"]
    assert not figure.legends
    assert axis.get_ylabel() == "validation accuracy, %"
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_many_rows_have_a_legend_and_no_names_in_the_panels(make_record, write_runs):
    records = [
        with_history(make_record(task, "lora", rank=rank), [0.5, 0.6])
        for task, ranks in (("rte", range(14)), ("mrpc", range(15)))
        for rank in ranks
    ]
    spec = ReportSpec(pivot=PivotSpec(rows=("adapter", "rank")))
    result = make_report(RunLoader().load([write_runs(records)]), spec)
    drawn = matplotlib_plots.figures(result)
    for name in ("learning_curves", "score_and_size"):
        (legend,) = drawn[name].legends
        names = [text.get_text() for text in legend.get_texts()]
        assert names == [f"LoRA, {rank}" for rank in range(15)]
    for chart in vega_charts.charts(result):
        assert '"type": "text"' not in json.dumps(chart.panels)


def test_an_adapter_has_one_color_in_every_report_file_and_page(report, study_folder):
    only_lora = make_report(RunLoader().load([study_folder]), ReportSpec(where={"adapter": "lora"}))
    color = color_of("lora")
    assert row_colors(only_lora.pivot)["lora"] == row_colors(report.pivot)["lora"] == color
    (axis,) = matplotlib_plots.figures(report)["learning_curves"].axes
    assert axis.lines[1].get_color() == color
    assert vega_charts.named_colors(report)["LoRA"] == color
    assert color in json.dumps(vega_charts.charts(report)[0].panels)
    assert len({color_of(name) for name in ADAPTERS}) == len(ADAPTERS)
    assert color_of("my_adapter") == color_of("my_adapter") != color_of("other")


def test_every_adapter_of_the_project_has_a_name_and_a_color(root):
    assert {file.stem for file in (root / "conf" / "adapter").glob("*.yaml")} <= ADAPTERS.keys()


def test_rows_of_one_adapter_have_shades_of_its_color(make_record, write_runs):
    records = [make_record(adapter="lora", rank=rank) for rank in (1, 4)]
    table = pivot(
        RunLoader().load([write_runs(records)]).scores, PivotSpec(rows=("adapter", "rank"))
    )
    colors = row_colors(table)
    assert colors["lora, 1"] == color_of("lora")
    assert colors["lora, 4"] == shade(color_of("lora"), 1) != color_of("lora")


def test_names_next_to_each_other_keep_their_distance_and_order():
    assert spread([5.0, 5.0, 1.0], 1.0, 0.0, 10.0) == [4.5, 5.5, 1.0]
    assert spread([9.9, 9.8, 9.7], 2.0, 0.0, 10.0) == [10.0, 8.0, 6.0]
    assert spread([0.0], 1.0, 2.0, 3.0) == [2.0]


def test_a_figure_without_data_is_left_out(study_folder):
    report = make_report(RunLoader().load([study_folder]), ReportSpec())
    assert set(matplotlib_plots.figures(report)) == {"score_and_size", "time", "memory"}
    assert len(vega_charts.charts(report)) == 3


def test_labels_of_the_size_figure_name_every_row_without_overlap(study_folder):
    report = make_report(RunLoader().load([study_folder]), ReportSpec())
    figure = matplotlib_plots.figures(report)["score_and_size"]
    overview, *tasks = figure.axes
    assert [axis.get_title() for axis in figure.axes] == [
        "mean of 2 tasks",
        "MRPC (accuracy)",
        "RTE (accuracy)",
    ]
    assert figure.get_supxlabel() == "trainable parameters (adapter)"
    names = {"head only", "LoRA", "RLoRA"}
    labels = [text for text in overview.texts if text.get_text() in names]
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
    charts = vega_charts.charts(report)
    assert len(charts) == 5
    curves = next(chart for chart in charts if chart.title.startswith("Learning curves"))
    (panel,) = curves.panels
    values = [
        {key: value for key, value in row.items() if key not in ("row", "column")}
        for row in series.learning_curves(report.pivot)
    ]
    shown = [
        {key: value for key, value in row.items() if key not in ("row", "column")}
        for row in panel["datasets"]["rows"]
    ]
    assert shown == values
    for chart in charts:
        for specification in chart.panels:
            assert specification["$schema"].startswith("https://vega.github.io")
            assert specification["width"] == "container"
            assert "NaN" not in json.dumps(specification)
            altair.Chart.from_dict(specification, validate=True)
