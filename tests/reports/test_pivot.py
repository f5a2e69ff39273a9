"""Pivot tables, choices on validation, and paired differences."""

import pytest

from rlora.reports.load import RunLoader
from rlora.reports.paired import differences
from rlora.reports.pivot import PivotSpec, pivot
from rlora.reports.select import choose_best, filter_scores
from rlora.reports.statistics import estimate, holm


@pytest.fixture
def scores(study_folder):
    return RunLoader().load([study_folder]).scores


def load(write_runs, records):
    return RunLoader().load([write_runs(records)]).scores


def test_cells_hold_the_runs_of_a_row_and_column(scores):
    table = pivot(scores, PivotSpec())
    assert table.rows == [("head",), ("lora",), ("rlora",)]
    assert table.columns == [("mrpc",), ("rte",)]
    assert table.estimate(("lora",), ("rte",)) == estimate([0.60, 0.63, 0.64])
    assert table.best_rows(("rte",)) == {("rlora",)}
    assert table.best_rows(("mrpc",)) == {("lora",)}
    assert table.mean_ranks() == pytest.approx({("head",): 3.0, ("lora",): 1.5, ("rlora",): 1.5})
    assert table.incomplete_cells() == []


def test_missing_runs_are_listed_and_ranks_use_complete_columns_only(scores):
    table = pivot(
        [s for s in scores if (s.settings["adapter"], s.settings["task"]) != ("rlora", "rte")][:-1],
        PivotSpec(),
    )
    assert table.estimate(("rlora",), ("rte",)) is None
    assert "adapter=rlora, task=rte: 0 of 3 runs" in table.incomplete_cells()
    assert table.mean_ranks() == pytest.approx({("head",): 3.0, ("lora",): 1.0, ("rlora",): 2.0})
    assert table.mean_ranks().keys() == set(table.rows)


def test_numbers_sort_by_value_and_a_missing_key_is_empty(make_record, write_runs):
    scores = load(write_runs, [make_record(beta=10), make_record(beta=9), make_record(seed=5)])
    table = pivot(scores, PivotSpec(rows=("adapter", "beta")))
    assert table.rows == [("lora", 9), ("lora", 10), ("lora", "")]


def test_ambiguous_runs_raise_with_the_keys_that_differ(make_record, write_runs):
    scores = load(
        write_runs, [make_record(optimizer={"lr": 0.1}), make_record(optimizer={"lr": 0.2})]
    )
    with pytest.raises(
        ValueError, match=r"several runs have adapter=lora, task=rte, seed=1; they differ in opt"
    ):
        pivot(scores, PivotSpec())
    assert len(pivot(scores, PivotSpec(rows=("adapter", "optimizer.lr"))).cells) == 2


def test_the_best_validation_score_is_chosen_whatever_the_test_score(make_record, write_runs):
    tried = [
        make_record(seed=1, optimizer={"lr": 0.1}, validation=0.6, score=0.1),
        make_record(seed=2, optimizer={"lr": 0.1}, validation=0.6, score=0.1),
        make_record(seed=1, optimizer={"lr": 0.2}, validation=0.5, score=0.9),
        make_record(seed=2, optimizer={"lr": 0.2}, validation=0.5, score=0.9),
        make_record(seed=1, optimizer={"lr": 0.3}, validation=0.9, score=0.9),  # tried once only
        make_record(seed=1, adapter="head", optimizer={"lr": 0.2}, validation=0.1),
    ]
    kept = choose_best(load(write_runs, tried), PivotSpec(), ["optimizer.lr"])
    assert {(score.settings["adapter"], score.settings["optimizer.lr"]) for score in kept} == {
        ("lora", 0.1),
        ("head", 0.2),
    }
    assert len(kept) == 3


def test_smaller_is_better_if_the_task_says_so(make_record, write_runs):
    tried = [
        make_record(adapter=a, validation=v, score=v, mode="min")
        for a, v in (("lora", 2.0), ("rlora", 1.0))
    ]
    scores = load(write_runs, tried)
    table = pivot(scores, PivotSpec())
    assert table.best_rows(("rte",)) == {("rlora",)}
    assert table.mean_ranks() == {("lora",): 2.0, ("rlora",): 1.0}
    (kept,) = choose_best(scores, PivotSpec(rows=()), ["adapter"])
    assert kept.settings["adapter"] == "rlora"


def test_differences_are_paired_and_adjusted_over_the_table(scores):
    table = pivot(scores, PivotSpec())
    compared = differences(table, "adapter")
    assert [(item.group, item.first, item.second) for item in compared] == [
        (("mrpc",), "head", "lora"), (("mrpc",), "head", "rlora"), (("mrpc",), "lora", "rlora"),
        (("rte",), "head", "lora"), (("rte",), "head", "rlora"), (("rte",), "lora", "rlora"),
    ]  # fmt: skip
    assert compared[0].estimate == estimate([0.80 - 0.70, 0.82 - 0.71, 0.81 - 0.72])
    assert [item.p_holm for item in compared] == holm([item.p for item in compared])


def test_a_baseline_and_an_order_of_options_are_respected(scores):
    table = pivot(scores, PivotSpec())
    against = differences(table, "adapter", baseline="lora")
    assert {(item.first, item.second) for item in against} == {("lora", "head"), ("lora", "rlora")}
    ordered = differences(table, "adapter", options=["rlora", "head"])
    assert {(item.first, item.second) for item in ordered} == {("rlora", "head")}
    with pytest.raises(
        ValueError, match="no run has adapter=nola: expected one of head, lora, rlora"
    ):
        differences(table, "adapter", baseline="nola")
    with pytest.raises(ValueError, match="--compare seed is invalid: expected a key of"):
        differences(table, "seed")


def test_a_condition_accepts_one_value_or_several(scores):
    assert len(filter_scores(scores, {"adapter": "lora|rlora", "task": "rte"})) == 6
    with pytest.raises(ValueError, match="none of 18 runs has adapter=nola"):
        filter_scores(scores, {"adapter": "nola"})
