"""Scores by metric: each has its scale and direction; the main metric of a task is the default."""

from dataclasses import replace

import pytest

from rlora.records.record import summary_metrics
from rlora.reports.__main__ import main
from rlora.reports.figures import series
from rlora.reports.load import RunLoader
from rlora.reports.metric_format import metric_format
from rlora.reports.pivot import PivotSpec, pivot
from rlora.reports.render import csv_text
from rlora.reports.select import choose_best


@pytest.fixture
def text_runs(make_record, write_runs):
    """Runs that are tested by generated text, with epochs chosen by perplexity."""
    records = []
    for adapter, bleu, nist, perplexity in (("lora", 0.6, 8.25, 3.0), ("rlora", 0.5, 8.5, 2.5)):
        for seed in (1, 2):
            record = make_record("e2e", adapter, seed, mode="min", model="gpt2_medium")
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
    return write_runs(records)


def markdown(folder, *arguments):
    main([str(folder), *arguments, "--markdown", str(folder / "table.md")])
    return (folder / "table.md").read_text()


def test_the_main_metric_is_the_default(text_runs):
    text = markdown(text_runs)
    assert "| adapter | trainable parameters (adapter) | e2e (BLEU) | rank |" in text
    assert "| lora | 73,728 | 60.0 ± 0.0 | 1.00 |" in text
    assert "n = 2 seeds." in text


def test_metrics_make_columns_in_the_order_of_the_argument_each_on_its_scale(text_runs):
    text = markdown(text_runs, "--metric", "NIST,BLEU", "--columns", "metric", "--baseline", "lora")
    assert "| adapter | trainable parameters (adapter) | NIST | BLEU |" in text
    assert "| rlora | 9,216 | 8.50 ± 0.00 | 50.0 ± 0.0 |" in text
    assert "Mean ± sd in percent, except NIST; " in text
    assert "| NIST | rlora − lora | 2 | +0.25 | – | – | – |" in text
    assert "| BLEU | rlora − lora | 2 | -10.0 |" in text
    assert "| lora | 2 | 73,728 |" in text  # a run counts once in what it cost
    assert "mean |" not in text.splitlines()[2]


def test_several_metrics_become_columns_by_default(text_runs):
    header = "| adapter | trainable parameters (adapter) | e2e (BLEU) | e2e (NIST) |"
    assert header in markdown(text_runs, "--metric", "BLEU,NIST")


def test_validation_shows_the_monitored_metric_of_which_smaller_is_better(text_runs):
    text = markdown(text_runs, "--split", "validation")
    assert "| rlora | 9,216 | 2.50 ± 0.00 | 1.00 |" in text
    assert "Smaller is better: perplexity." in text
    assert "Mean ± sd; n = 2" in text


def test_choices_follow_the_monitored_metric_not_the_main_one(text_runs):
    kept = choose_best(RunLoader().load([text_runs]).scores, PivotSpec(rows=()), ["adapter"])
    assert {score.settings["adapter"] for score in kept} == {"rlora"}
    assert {score.value for score in kept} == {0.5}


def test_a_metric_that_was_not_computed_is_skipped_with_its_reason(text_runs):
    loaded = RunLoader(metrics=["BLEU", "METEOR"]).load([text_runs])
    assert len(loaded.scores) == 4
    assert {run.reason for run in loaded.skipped} == {"has no score test/METEOR: there is no Java"}


def test_a_metric_with_its_split_selects_that_split(make_record, write_runs):
    record = make_record()
    record.scores["test_mismatched/accuracy"] = 0.25
    (score,) = RunLoader(metrics=["test_mismatched/accuracy"]).load([write_runs([record])]).scores
    assert (score.value, score.settings["metric"], score.format) == (
        0.25,
        "test_mismatched/accuracy",
        metric_format("accuracy"),
    )


def test_metrics_of_different_scales_are_not_averaged(text_runs):
    scores = RunLoader(metrics=["BLEU", "NIST"]).load([text_runs]).scores
    with pytest.raises(
        ValueError, match=r"several runs have .*metric|BLEU and NIST, which have no common mean"
    ):
        pivot(scores, PivotSpec(columns=("task",), pairs=("seed", "metric")))


def test_figures_show_each_run_once_with_the_unit(text_runs):
    table = pivot(
        RunLoader(metrics=["BLEU", "NIST"]).load([text_runs]).scores,
        PivotSpec(columns=("task", "metric")),
    )
    assert [row["column"] for row in series.costs(table)] == ["e2e", "e2e"]
    assert {
        (row["column"], row["unit"], row["score"])
        for row in series.scores_by_size(table)
        if row["row"] == "lora"
    } == {
        ("e2e (BLEU)", "%", 60.0),
        ("e2e (NIST)", "NIST", 8.25),
    }


def test_the_csv_has_one_line_per_run(text_runs):
    scores = RunLoader(metrics=["BLEU", "NIST"]).load([text_runs]).scores
    assert len(csv_text(scores).splitlines()) == 1 + 4


def test_published_scores_appear_in_the_column_of_their_metric(text_runs):
    text = markdown(text_runs, "--metric", "BLEU,NIST", "--columns", "metric")
    assert "| LoRA, gpt2_medium [1] | 0.35M | 70.4 | 8.85 |" in text


def test_loggers_get_the_main_metric(text_runs):
    (run, *_) = RunLoader().load([text_runs]).scores
    summary = summary_metrics(run.record)
    assert (summary["final/test_score"], summary["final/validation_score"]) == (0.6, 3.0)
