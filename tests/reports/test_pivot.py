"""Runs laid out, chosen on validation, and compared in pairs."""

import pytest

from rlora.reports.load import Reader
from rlora.reports.paired import differences
from rlora.reports.pivot import Layout, choose, lay_out, where
from rlora.reports.statistics import estimate, holm


@pytest.fixture
def runs(study):
    return Reader().read([study]).runs


def tidy(written, records):
    return Reader().read([written(records)]).runs


def test_cells_hold_the_runs_of_a_row_and_column(runs):
    grid = lay_out(runs, Layout())
    assert grid.rows == [("head",), ("lora",), ("rlora",)]
    assert grid.columns == [("mrpc",), ("rte",)]
    assert grid.estimate(("lora",), ("rte",)) == estimate([0.60, 0.63, 0.64])
    assert grid.best(("rte",)) == {("rlora",)}
    assert grid.best(("mrpc",)) == {("lora",)}
    assert grid.ranks() == pytest.approx({("head",): 3.0, ("lora",): 1.5, ("rlora",): 1.5})
    assert grid.uneven() == []


def test_missing_runs_are_told_and_ranks_need_whole_columns(runs):
    grid = lay_out(
        [r for r in runs if (r.facts["adapter"], r.facts["task"]) != ("rlora", "rte")][:-1],
        Layout(),
    )
    assert grid.estimate(("rlora",), ("rte",)) is None
    assert "adapter=rlora, task=rte: 0 of 3 runs" in grid.uneven()
    assert grid.ranks() == pytest.approx({("head",): 3.0, ("lora",): 1.0, ("rlora",): 2.0})
    assert grid.ranks().keys() == set(grid.rows)


def test_numbers_sort_as_numbers_and_a_key_that_some_lack_is_empty(made, written):
    runs = tidy(written, [made(beta=10), made(beta=9), made(seed=5)])
    grid = lay_out(runs, Layout(rows=("adapter", "beta")))
    assert grid.rows == [("lora", 9), ("lora", 10), ("lora", "")]


def test_runs_that_nothing_tells_apart_are_refused_with_what_differs(made, written):
    runs = tidy(written, [made(optimizer={"lr": 0.1}), made(optimizer={"lr": 0.2})])
    with pytest.raises(
        ValueError, match=r"several runs have adapter=lora, task=rte, seed=1; they differ in opt"
    ):
        lay_out(runs, Layout())
    assert len(lay_out(runs, Layout(rows=("adapter", "optimizer.lr"))).cells) == 2


def test_the_best_on_validation_is_kept_whatever_the_test_says(made, written):
    tried = [
        made(seed=1, optimizer={"lr": 0.1}, validation=0.6, score=0.1),
        made(seed=2, optimizer={"lr": 0.1}, validation=0.6, score=0.1),
        made(seed=1, optimizer={"lr": 0.2}, validation=0.5, score=0.9),
        made(seed=2, optimizer={"lr": 0.2}, validation=0.5, score=0.9),
        made(seed=1, optimizer={"lr": 0.3}, validation=0.9, score=0.9),  # tried once only
        made(seed=1, adapter="head", optimizer={"lr": 0.2}, validation=0.1),
    ]
    kept = choose(tidy(written, tried), Layout(), ["optimizer.lr"])
    assert {(run.facts["adapter"], run.facts["optimizer.lr"]) for run in kept} == {
        ("lora", 0.1),
        ("head", 0.2),
    }
    assert len(kept) == 3


def test_lower_is_better_where_the_task_says_so(made, written):
    tried = [
        made(adapter=a, validation=v, score=v, mode="min")
        for a, v in (("lora", 2.0), ("rlora", 1.0))
    ]
    runs = tidy(written, tried)
    grid = lay_out(runs, Layout())
    assert grid.best(("rte",)) == {("rlora",)}
    assert grid.ranks() == {("lora",): 2.0, ("rlora",): 1.0}
    (kept,) = choose(runs, Layout(rows=()), ["adapter"])
    assert kept.facts["adapter"] == "rlora"


def test_differences_are_paired_tested_and_adjusted_together(runs):
    grid = lay_out(runs, Layout())
    found = differences(grid, "adapter")
    assert [(item.setting, item.first, item.second) for item in found] == [
        (("mrpc",), "head", "lora"), (("mrpc",), "head", "rlora"), (("mrpc",), "lora", "rlora"),
        (("rte",), "head", "lora"), (("rte",), "head", "rlora"), (("rte",), "lora", "rlora"),
    ]  # fmt: skip
    assert found[0].estimate == estimate([0.80 - 0.70, 0.82 - 0.71, 0.81 - 0.72])
    assert [item.p_holm for item in found] == holm([item.p for item in found])


def test_a_baseline_and_an_order_are_kept(runs):
    grid = lay_out(runs, Layout())
    against = differences(grid, "adapter", baseline="lora")
    assert {(item.first, item.second) for item in against} == {("lora", "head"), ("lora", "rlora")}
    ordered = differences(grid, "adapter", options=["rlora", "head"])
    assert {(item.first, item.second) for item in ordered} == {("rlora", "head")}
    with pytest.raises(ValueError, match="no run has adapter=nola: there is head, lora, rlora"):
        differences(grid, "adapter", baseline="nola")
    with pytest.raises(ValueError, match="--compare seed needs it among the keys"):
        differences(grid, "seed")


def test_conditions_name_one_value_or_several(runs):
    assert len(where(runs, {"adapter": "lora|rlora", "task": "rte"})) == 6
    with pytest.raises(ValueError, match="none of 18 runs has adapter=nola"):
        where(runs, {"adapter": "nola"})
