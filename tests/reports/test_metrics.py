"""Scores by metric: each on its own scale, in its own direction, the run's own where none is asked for."""

from dataclasses import replace

import pytest

from rlora.records.record import summary_metrics
from rlora.reports.__main__ import main
from rlora.reports.figures import series
from rlora.reports.load import Reader, csv_text
from rlora.reports.metrics import shown
from rlora.reports.pivot import Layout, choose, lay_out


@pytest.fixture
def texts(made, written):
    """Runs of a task whose test is what the model writes, and whose epochs are chosen by perplexity."""
    records = []
    for adapter, bleu, nist, perplexity in (("lora", 0.6, 8.25, 3.0), ("rlora", 0.5, 8.5, 2.5)):
        for seed in (1, 2):
            record = made("e2e", adapter, seed, mode="min", model="gpt2_medium")
            records.append(
                replace(
                    record,
                    run=replace(record.run, model="gpt2_medium"),
                    monitor="validation/perplexity",
                    reported="BLEU",
                    scores={
                        "validation/perplexity": perplexity,
                        "test/BLEU": bleu,
                        "test/NIST": nist,
                    },
                    missing={"test/METEOR": "there is no Java"},
                )
            )
    return written(records)


def markdown(folder, *words):
    main([str(folder), *words, "--markdown", str(folder / "table.md")])
    return (folder / "table.md").read_text()


def test_a_run_is_shown_by_the_metric_that_stands_for_it(texts):
    text = markdown(texts)
    assert "| lora | 73,728 | **60.0 ± 0.0** | 1.00 |" in text
    assert "n = 2 runs (seed) in every cell; BLEU." in text


def test_each_metric_has_a_column_in_the_order_asked_and_its_own_scale(texts):
    text = markdown(texts, "--metric", "NIST,BLEU", "--columns", "metric", "--baseline", "lora")
    assert "| adapter | trained | NIST | BLEU |" in text
    assert "| rlora | 9,216 | **8.50 ± 0.00** | 50.0 ± 0.0 |" in text
    assert "Mean ± standard deviation in percent, NIST not; " in text
    assert "| NIST | rlora − lora | 2 | +0.25 | [+0.25, +0.25] |" in text
    assert "| BLEU | rlora − lora | 2 | -10.0 |" in text
    assert "| lora | 2 | 73,728 |" in text  # a run counts once in what it cost
    assert "mean |" not in text.splitlines()[2]


def test_several_metrics_make_columns_of_themselves(texts):
    assert "| adapter | trained | e2e, BLEU | e2e, NIST |" in markdown(
        texts, "--metric", "BLEU,NIST"
    )


def test_on_validation_it_is_the_monitored_metric_and_the_smaller_is_better(texts):
    text = markdown(texts, "--split", "validation")
    assert "| rlora | 9,216 | **2.50 ± 0.00** | 1.00 |" in text
    assert "Mean ± standard deviation; n = 2" in text


def test_choices_follow_the_monitored_metric_not_the_reported_one(texts):
    kept = choose(Reader().read([texts]).runs, Layout(rows=()), ["adapter"])
    assert {run.facts["adapter"] for run in kept} == {"rlora"}
    assert {run.score for run in kept} == {0.5}


def test_a_metric_that_was_not_computed_is_told_with_its_reason(texts):
    found = Reader(metrics=["BLEU", "METEOR"]).read([texts])
    assert len(found.runs) == 4
    assert {problem.reason for problem in found.problems} == {
        "has no score test/METEOR: there is no Java"
    }


def test_one_split_of_several_is_asked_for_by_its_whole_name(made, written):
    record = made()
    record.scores["test_mismatched/accuracy"] = 0.25
    (run,) = Reader(metrics=["test_mismatched/accuracy"]).read([written([record])]).runs
    assert (run.score, run.facts["metric"], run.shown) == (
        0.25,
        "test_mismatched/accuracy",
        shown("accuracy"),
    )


def test_metrics_of_several_scales_have_no_mean(texts):
    runs = Reader(metrics=["BLEU", "NIST"]).read([texts]).runs
    with pytest.raises(
        ValueError, match=r"several runs have .*metric|BLEU and NIST, which have no mean"
    ):
        lay_out(runs, Layout(columns=("task",), pairs=("seed", "metric")))


def test_figures_show_each_run_once_and_name_the_unit(texts):
    grid = lay_out(
        Reader(metrics=["BLEU", "NIST"]).read([texts]).runs, Layout(columns=("task", "metric"))
    )
    assert [row["column"] for row in series.costs(grid)] == ["e2e", "e2e"]
    assert {
        (row["column"], row["unit"], row["score"])
        for row in series.sizes(grid)
        if row["row"] == "lora"
    } == {
        ("e2e, BLEU", "%", 60.0),
        ("e2e, NIST", "NIST", 8.25),
    }


def test_a_table_of_runs_has_one_line_a_run(texts):
    runs = Reader(metrics=["BLEU", "NIST"]).read([texts]).runs
    assert len(csv_text(runs).splitlines()) == 1 + 4


def test_published_scores_stand_below_their_metric(texts):
    text = markdown(texts, "--metric", "BLEU,NIST", "--columns", "metric")
    assert "| LoRA, gpt2_medium [1] | 0.35M | 70.4 | 8.85 |" in text


def test_loggers_get_the_metric_that_stands_for_the_run(texts):
    (run, *_) = Reader().read([texts]).runs
    found = summary_metrics(run.record)
    assert (found["final/test_score"], found["final/validation_score"]) == (0.6, 3.0)
