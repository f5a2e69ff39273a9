"""Disjoint parts of a training set, on synthetic rows and on SST-2."""

import itertools

import numpy as np
import pytest

from rlora.data.disjoint_parts import (
    assign_groups,
    containing_rows,
    groups_of_rows,
    one_row_per_group,
)
from rlora.data.examples import Examples
from rlora.data.splits import normalize

PHRASES = [
    ("the film is good",),
    ("a bad film",),
    ("good",),
    ("Good ",),
    ("film",),
    ("is good",),
    ("bad luck",),
    ("bad",),
]


@pytest.fixture(scope="module")
def sst2(build_task):
    """Function of changed settings that returns the split plan of SST-2."""
    return lambda **changes: build_task("sst2", **changes).split_plan()


def words(text):
    return tuple(normalize(text).split())


def contains(longer, shorter):
    size = len(shorter)
    return any(longer[start : start + size] == shorter for start in range(len(longer) - size + 1))


def test_rows_belong_to_the_sentences_that_contain_them():
    groups = [rows.tolist() for rows in containing_rows(PHRASES)]
    assert groups == [[0], [1], [0], [0], [0, 1], [0], [6], [1, 6]]


def test_without_containment_rows_that_share_a_text_form_a_group():
    texts = [("a", "b"), ("c", "a"), ("d", "e")]
    groups = [ids.tolist() for ids in groups_of_rows(texts, [0, 1], contained=False)]
    assert groups[0] == groups[1] != groups[2]


def test_containment_of_pairs_raises():
    with pytest.raises(
        ValueError, match=r"task\.contained=true is invalid: expected rows of one text"
    ):
        groups_of_rows([("a", "b")], [0], contained=True)


@pytest.mark.parametrize("seed", range(5))
def test_parts_share_no_group_and_omit_only_rows_of_several_parts(seed):
    rng = np.random.default_rng(seed)
    groups = [np.unique(rng.integers(0, 60, size=rng.integers(1, 3))) for _ in range(400)]
    parts = assign_groups(groups, {"prior": 0.5, "rest": 0.4, "validation": 0.1}, seed)
    groups_of = {
        name: set(np.concatenate([groups[row] for row in rows]).tolist())
        for name, rows in parts.items()
    }
    for one, other in itertools.combinations(groups_of, 2):
        assert groups_of[one].isdisjoint(groups_of[other])
    assigned = set(np.concatenate(list(parts.values())).tolist())
    for row in set(range(400)) - assigned:
        assert sum(not groups_of[name].isdisjoint(groups[row].tolist()) for name in groups_of) >= 1
        assert not any(set(groups[row].tolist()) <= groups_of[name] for name in groups_of)


def test_parts_have_their_shares_and_depend_on_the_seed():
    groups = [np.array([row // 2]) for row in range(1000)]
    parts = assign_groups(groups, {"prior": 0.5, "rest": 0.25, "validation": 0.25}, 0)
    assert [len(rows) for rows in parts.values()] == pytest.approx([500, 250, 250], abs=4)
    again, other = (
        assign_groups(groups, {"prior": 0.5, "rest": 0.5}, 0),
        assign_groups(groups, {"prior": 0.5, "rest": 0.5}, 1),
    )
    assert not np.array_equal(again["prior"], other["prior"])
    assert np.array_equal(
        again["prior"], assign_groups(groups, {"prior": 0.5, "rest": 0.5}, 0)["prior"]
    )


def test_an_empty_part_raises():
    with pytest.raises(ValueError, match=r"leave no rows for prior .* change task\.prior_fraction"):
        assign_groups([np.array([0])], {"prior": 0.5, "rest": 0.5}, 0)


def test_one_row_per_group():
    groups = [np.array(ids) for ids in ([0], [0], [0, 1], [1], [2], [2, 3], [3])]
    for seed in range(5):
        rows = one_row_per_group(groups, seed)
        flat = np.concatenate([groups[row] for row in rows]).tolist()
        assert len(flat) == len(set(flat))
        assert not set(range(7)) <= set(rows)


@pytest.mark.parametrize("part", ["prior", "rest"])
def test_a_task_trains_on_its_part_alone(sst2, part):
    texts = [(f"word{row} and more",) for row in range(300)]
    read = {
        "train": Examples(texts, [row % 2 for row in range(300)]),
        "test": Examples([("x",)], [0]),
    }
    whole = sst2().apply(read)
    assert whole.parts == {}
    divided = sst2(part=part).apply(read)
    assert set(divided.parts) == {"prior", "rest", "validation"}
    assert divided.parts[part] == divided.splits["train"].digest
    other = sst2(part={"prior": "rest", "rest": "prior"}[part]).apply(read)
    assert other.parts == divided.parts
    assert divided.splits["validation"].digest == other.splits["validation"].digest
    assert set(divided.splits["train"].texts).isdisjoint(other.splits["train"].texts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"part": "posterior"},
            r"task\.part=posterior is unknown; set task\.part to prior, rest or null",
        ),
        (
            {"part": "rest", "prior_fraction": 1.0},
            r"task\.prior_fraction=1\.0 is invalid: expected a number strictly",
        ),
        ({"part": "rest", "shots": 16}, r"task\.part=rest and task\.shots=16 each choose"),
    ],
)
def test_invalid_settings_raise(sst2, changes, message):
    with pytest.raises(ValueError, match=message):
        sst2(**changes)


def phrases(row, lengths):
    """Return all contiguous parts of a row that have one of these lengths."""
    sizes = [size for size in lengths if size <= len(row)]
    return (row[i : i + size] for size in sizes for i in range(len(row) - size + 1))


@pytest.mark.data
def test_no_row_of_sst2_is_contained_in_a_row_of_another_part(build_task):
    task = build_task("sst2", part="rest")
    read = task.read()
    plan = task.split_plan()
    # The parts as they train; one call gives all three, of which `apply` returns two at a time.
    splits = plan._disjoint_parts(read)
    parts = {name: [words(text) for (text,) in rows.texts] for name, rows in splits.items()}
    assert set(parts) == {"prior", "rest", "validation"}
    total = sum(len(rows) for rows in parts.values())
    assert total > 0.9 * len(read["train"])
    assert len(parts["rest"]) > 25_000
    part_of = {row: name for name, rows in parts.items() for row in rows}
    assert sum(len(set(rows)) for rows in parts.values()) == len(part_of)
    lengths = sorted({len(row) for row in part_of})
    crossing = [
        row
        for name, rows in parts.items()
        for row in rows
        if any(part_of.get(phrase, name) != name for phrase in phrases(row, lengths))
    ]
    assert crossing == []
