"""Seeded splits: groups, validation, few-shot samples and digests."""

import numpy as np
import pytest

from rlora.data.examples import Examples, fingerprint
from rlora.data.splits import few_shot_rows, group_rows, grouped_split, sample


def test_groups_are_transitive_and_normalized():
    texts = [("A man", "x"), ("a  MAN ", "y"), ("z", "Y"), ("q", "r"), ("r", "s")]
    groups = group_rows(texts, [0, 1])
    assert len(set(groups[:3])) == 1
    assert groups[3] == groups[4] != groups[0]
    assert len(set(group_rows(texts, [0]))) == 4


def test_a_row_that_shares_a_text_with_each_of_two_groups_joins_them():
    groups = group_rows([("a", "p"), ("b", "q"), ("a", "q"), ("c", "r")], [0, 1])
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_grouped_split_is_complete_seeded_and_of_its_size():
    groups = np.array([row // 3 for row in range(900)])
    rest, chosen = grouped_split(groups, 90, seed=0)
    assert len(chosen) == 90
    assert sorted([*rest, *chosen]) == list(range(900))
    assert not set(groups[rest]) & set(groups[chosen])
    assert (grouped_split(groups, 90, seed=0)[1] == chosen).all()
    assert (grouped_split(groups, 90, seed=1)[1] != chosen).any()


def test_a_very_large_group_stays_in_train():
    groups = np.array([0] * 60 + list(range(1, 941)))
    for seed in range(5):
        assert 0 not in groups[grouped_split(groups, 100, seed)[1]]


def test_a_single_group_allows_no_validation():
    with pytest.raises(ValueError, match="50 training rows in 1 groups of a common text"):
        grouped_split(np.zeros(50, dtype=np.int64), 5, 0)


def test_few_shot_is_balanced_disjoint_and_seeded():
    labels = [row % 3 for row in range(99)]
    train, validation = few_shot_rows(labels, 8, 13)
    assert not set(train) & set(validation)
    assert [sorted(labels[row] for row in rows) for rows in (train, validation)] == [
        sorted([0, 1, 2] * 8)
    ] * 2
    assert few_shot_rows(labels, 8, 13) == (train, validation) != few_shot_rows(labels, 8, 21)
    with pytest.raises(
        ValueError,
        match=r"task\.shots=17 needs 34 .* class \d has 33; set task\.shots to at most 16",
    ):
        few_shot_rows(labels, 17, 13)


def test_a_sample_is_seeded_sorted_and_nested():
    small, large = sample(100, 10, 13), sample(100, 40, 13)
    assert list(small) == sorted(set(small))
    assert set(small) < set(large)
    assert list(sample(100, 10, 21)) != list(small)
    assert list(sample(5, 5, 0)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"task\.train_examples=6 is invalid: expected at most 5"):
        sample(5, 6, 0)


def test_digests_distinguish_fields_and_labels():
    assert Examples([("ab", "c")]).text_digest != Examples([("a", "bc")]).text_digest
    first, second = Examples([("a",)], [0]), Examples([("a",)], [1])
    assert first.text_digest == second.text_digest
    assert (
        fingerprint({"train": first})
        != fingerprint({"train": second})
        != fingerprint({"test": second})
    )
