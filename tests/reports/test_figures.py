"""Figures: what they show, and the files and specifications that show it."""

from dataclasses import replace

import pytest

from rlora.reports.figures import matplotlib_plots, series, vega_charts
from rlora.reports.load import Reader
from rlora.reports.pivot import Layout, lay_out
from rlora.reports.report import Question, report


def with_history(record, scores):
    history = [{"epoch": i, "validation/accuracy": score} for i, score in enumerate(scores)]
    return replace(record, training=replace(record.training, history=history))


@pytest.fixture
def whole(made, written):
    """A report of runs with learning curves and a certificate."""
    records = [
        with_history(
            made(adapter=adapter, seed=seed, score=0.6 + 0.1 * number), [0.5, 0.6 + 0.01 * seed]
        )
        for number, adapter in enumerate(("head", "rlora", "lora"))
        for seed in (1, 2)
    ]
    records[-1].certificate = {
        "bound": 0.3, "risk": 0.2, "by_group": {"bound": 0.4}, "kl": 1.0, "rows": 9,
        "rival": {"reason": "none"}, "test": {"test": {"mean": 0.25}},
    }  # fmt: skip
    return report(Reader().read([written(records)]), Question())


def test_curves_are_means_with_extremes_over_the_runs_that_got_there(made, written):
    records = [with_history(made(seed=1), [0.5, 0.6]), with_history(made(seed=2), [0.7])]
    rows = series.curves(lay_out(Reader().read([written(records)]).runs, Layout()))
    common = {"row": "lora", "column": "rte", "unit": "%"}
    assert rows == [
        {**common, "epoch": 1, "mean": pytest.approx(60), "low": 50, "high": 70, "n": 2},
        {**common, "epoch": 2, "mean": 60, "low": 60, "high": 60, "n": 1},
    ]


def test_one_point_is_no_curve(made, written):
    runs = Reader().read([written([with_history(made(), [0.5])])]).runs
    assert series.curves(lay_out(runs, Layout())) == []


def test_the_front_holds_what_nothing_smaller_beats(study):
    rows = series.sizes(lay_out(Reader().read([study]).runs, Layout()))
    front = {(row["column"], row["row"]) for row in rows if row["front"]}
    assert front == {
        ("mrpc", "head"),
        ("mrpc", "rlora"),
        ("mrpc", "lora"),
        ("rte", "head"),
        ("rte", "rlora"),
    }
    assert {row["row"]: row["trained"] for row in rows} == {
        "head": 66,
        "lora": 73_728 + 66,
        "rlora": 9_216 + 66,
    }


def test_a_certificate_without_a_rival_shows_the_rest(whole):
    rows = series.certificates(whole.runs)
    assert [(row["what"], row["percent"], row["error"]) for row in rows] == [
        ("bound", 30, 25),
        ("posterior's risk", 20, 25),
    ]


def test_files_are_written_and_lines_are_where_they_should_be(whole, tmp_path):
    names = {"learning_curves", "score_and_size", "time", "memory", "certificates"}
    files = matplotlib_plots.write(whole, tmp_path / "plots")
    assert {file.name for file in files} == {
        f"{name}.{suffix}" for name in names for suffix in ("pdf", "png")
    }
    assert all(file.stat().st_size > 1000 for file in files)
    (axis,) = matplotlib_plots.drawn(whole)["learning_curves"].axes
    assert [line.get_label() for line in axis.lines] == ["head", "lora", "rlora"]
    assert list(axis.lines[0].get_ydata()) == pytest.approx([50, 61.5])


def test_nothing_to_draw_is_no_figure(study):
    made = report(Reader().read([study]), Question())
    assert set(matplotlib_plots.drawn(made)) == {"score_and_size", "time", "memory"}
    assert len(vega_charts.specifications(made)) == 3


def test_specifications_hold_the_same_rows(whole):
    specifications = vega_charts.specifications(whole)
    assert len(specifications) == 5
    curves = specifications["Learning curves: validation score by epoch"]
    assert curves["data"]["values"] == series.curves(whole.grid)
    assert all(
        specification["$schema"].startswith("https://vega.github.io")
        for specification in specifications.values()
    )
