"""Parts of a training set that share nothing, on rows made up and on SST-2's."""

import itertools

import numpy as np
import pytest

from rlora.config.build import build
from rlora.data.disjoint_parts import containing, deal, one_of_each, owners
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


def division(compose, task, **changes):
    return build(compose(f"task={task}").config["task"], **changes).division()


def words(text):
    return tuple(normalize(text).split())


def contains(longer, shorter):
    size = len(shorter)
    return any(longer[start : start + size] == shorter for start in range(len(longer) - size + 1))


def test_rows_go_with_the_sentences_that_hold_them():
    found = [own.tolist() for own in containing(PHRASES)]
    assert found == [[0], [1], [0], [0], [0, 1], [0], [6], [1, 6]]


def test_without_containment_rows_that_share_a_text_are_one_group():
    found = [
        own.tolist()
        for own in owners([("a", "b"), ("c", "a"), ("d", "e")], [0, 1], contained=False)
    ]
    assert found[0] == found[1] != found[2]


def test_containment_of_pairs_is_refused():
    with pytest.raises(ValueError, match=r"task\.contained is for rows of one text"):
        owners([("a", "b")], [0], contained=True)


@pytest.mark.parametrize("seed", range(5))
def test_parts_share_no_group_and_leave_out_only_what_lies_between(seed):
    rng = np.random.default_rng(seed)
    groups = [np.unique(rng.integers(0, 60, size=rng.integers(1, 3))) for _ in range(400)]
    parts = deal(groups, {"prior": 0.5, "rest": 0.4, "validation": 0.1}, seed)
    held = {
        name: set(np.concatenate([groups[row] for row in rows]).tolist())
        for name, rows in parts.items()
    }
    for one, other in itertools.combinations(held, 2):
        assert held[one].isdisjoint(held[other])
    taken = set(np.concatenate(list(parts.values())).tolist())
    for row in set(range(400)) - taken:
        assert sum(not held[name].isdisjoint(groups[row].tolist()) for name in held) >= 1
        assert not any(set(groups[row].tolist()) <= held[name] for name in held)


def test_shares_are_kept_and_the_seed_decides():
    groups = [np.array([row // 2]) for row in range(1000)]
    parts = deal(groups, {"prior": 0.5, "rest": 0.25, "validation": 0.25}, 0)
    assert [len(rows) for rows in parts.values()] == pytest.approx([500, 250, 250], abs=4)
    again, other = (
        deal(groups, {"prior": 0.5, "rest": 0.5}, 0),
        deal(groups, {"prior": 0.5, "rest": 0.5}, 1),
    )
    assert not np.array_equal(again["prior"], other["prior"])
    assert np.array_equal(again["prior"], deal(groups, {"prior": 0.5, "rest": 0.5}, 0)["prior"])


def test_a_part_without_rows_is_refused():
    with pytest.raises(ValueError, match=r"leave no rows for prior .* change task\.prior_fraction"):
        deal([np.array([0])], {"prior": 0.5, "rest": 0.5}, 0)


def test_one_row_of_each_group():
    groups = [np.array(own) for own in ([0], [0], [0, 1], [1], [2], [2, 3], [3])]
    for seed in range(5):
        rows = one_of_each(groups, seed)
        flat = np.concatenate([groups[row] for row in rows]).tolist()
        assert len(flat) == len(set(flat))
        assert not set(range(7)) <= set(rows)


@pytest.mark.parametrize("part", ["prior", "rest"])
def test_a_task_trains_on_its_part_alone(compose, part):
    texts = [(f"word{row} and more",) for row in range(300)]
    read = {
        "train": Examples(texts, [row % 2 for row in range(300)]),
        "test": Examples([("x",)], [0]),
    }
    whole = division(compose, "sst2").of(read)
    assert whole.parts == {}
    divided = division(compose, "sst2", part=part).of(read)
    assert set(divided.parts) == {"prior", "rest", "validation"}
    assert divided.parts[part] == divided.splits["train"].digest
    other = division(compose, "sst2", part={"prior": "rest", "rest": "prior"}[part]).of(read)
    assert other.parts == divided.parts
    assert divided.splits["validation"].digest == other.splits["validation"].digest
    assert set(divided.splits["train"].texts).isdisjoint(other.splits["train"].texts)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"part": "posterior"},
            r"task\.part=posterior is unknown; set task\.part to prior, rest or null",
        ),
        ({"part": "rest", "prior_fraction": 1.0}, r"task\.prior_fraction=1\.0 must lie strictly"),
        ({"part": "rest", "shots": 16}, r"task\.part=rest and task\.shots=16 each choose"),
    ],
)
def test_settings_that_do_not_fit_are_refused(compose, changes, told):
    with pytest.raises(ValueError, match=told):
        division(compose, "sst2", **changes)


@pytest.mark.data
def test_no_row_of_sst2_lies_inside_a_row_of_another_part(compose):
    task = build(compose("task=sst2").config["task"], part="rest")
    divided = {
        part: build(compose("task=sst2").config["task"], part=part) for part in ("prior", "rest")
    }
    read = task.read()
    splits = {part: one.division().of(read).splits for part, one in divided.items()}
    parts = {name: [words(text) for (text,) in splits[name]["train"].texts] for name in splits}
    parts["validation"] = [words(text) for (text,) in splits["rest"]["validation"].texts]
    total = sum(len(rows) for rows in parts.values())
    assert total > 0.9 * len(read["train"])
    assert len(parts["rest"]) > 25_000
    for name, rows in parts.items():
        inside = {
            row[i:j] for row in rows for i in range(len(row)) for j in range(i + 1, len(row) + 1)
        }
        for other in parts:
            assert other == name or not any(row in inside for row in parts[other])
