"""Seeded splits: grouped validation and few-shot samples, independent of global random state."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from rlora.data.examples import Examples

# A group above this share of the validation size stays in train. The largest of STS-B has 245 rows,
# and its validation split has 287.
LARGEST_GROUP_SHARE = 0.25


def generator(*key: int) -> np.random.Generator:
    """Return a NumPy generator that depends only on `key` (Philox, seeded by a SeedSequence)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def normalize(text: str) -> str:
    """Return the text in lower case, with each run of white space replaced by one blank."""
    return " ".join(text.lower().split())


def group_rows(texts: Sequence[tuple[str, ...]], fields: Sequence[int]) -> NDArray[np.int64]:
    """Return a group id per row (N,); rows with a common text in any of `fields` share a group.

    Texts are compared after `normalize`. Sharing is transitive and crosses fields: the first field
    of one row may equal the second field of another.
    """
    parent = list(range(len(texts)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first_row: dict[str, int] = {}
    for row, row_texts in enumerate(texts):
        for field in fields:
            other = first_row.setdefault(normalize(row_texts[field]), row)
            parent[root(row)] = root(other)
    return np.array([root(row) for row in range(len(texts))], dtype=np.int64)


def grouped_split(
    groups: NDArray[np.int64], size: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows (rest, chosen) in file order, with at most `size` chosen.

    No group is on both sides. Groups are chosen in seeded order while they fit; very large groups
    always stay in the rest.

    Args:
        groups: Group id of each row (N,).
        size: Maximum number of chosen rows.
        seed: Seed of the order.

    Raises:
        ValueError: Either side has no rows.
    """
    names, counts = np.unique(groups, return_counts=True)
    largest = max(1, int(size * LARGEST_GROUP_SHARE))
    chosen = np.zeros(len(names), dtype=bool)
    room = size
    for group in generator(seed).permutation(len(names)):
        if counts[group] <= min(room, largest):
            chosen[group] = True
            room -= int(counts[group])
            if room == 0:
                break
    picked = chosen[np.searchsorted(names, groups)]
    if not picked.any() or picked.all():
        raise ValueError(
            f"{len(groups)} training rows in {len(names)} groups of a common text allow no "
            f"validation split of {size} rows without part of a group: raise "
            "task.validation_fraction, or give a validation set."
        )
    return np.flatnonzero(~picked), np.flatnonzero(picked)


def sample(rows: int, size: int, seed: int) -> NDArray[np.int64]:
    """Sample `size` of `rows` row numbers; a larger sample with the same seed contains the smaller.

    The result is in file order.

    Raises:
        ValueError: There are fewer rows.
    """
    if size > rows:
        raise ValueError(
            f"task.train_examples={size} is invalid: expected at most {rows}, the number of "
            "training rows."
        )
    return np.sort(generator(seed, rows).permutation(rows)[:size])


def few_shot_rows(labels: Sequence[Hashable], shots: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the rows of train and of validation, `shots` per class in each.

    The legacy NumPy generator shuffles the rows. Each class gives its first `shots` rows to train
    and its next `shots` to validation; the classes are in the order of their first rows.

    Raises:
        ValueError: A class has fewer than 2 `shots` rows.

    Source: LM-BFF (Gao et al., ACL 2021), princeton-nlp/LM-BFF tools/generate_k_shot_data.py.
    """
    order = list(range(len(labels)))
    # The published samples come from the legacy generator; a newer one gives other rows.
    np.random.RandomState(seed).shuffle(order)
    by_class: dict[Hashable, list[int]] = {}
    for row in order:
        by_class.setdefault(labels[row], []).append(row)
    for label, rows in by_class.items():
        if len(rows) < 2 * shots:
            raise ValueError(
                f"task.shots={shots} needs {2 * shots} training rows per class (train and "
                f"validation), but class {label!r} has {len(rows)}; set task.shots to at most "
                f"{len(rows) // 2}."
            )
    train = [row for rows in by_class.values() for row in rows[:shots]]
    validation = [row for rows in by_class.values() for row in rows[shots : 2 * shots]]
    return train, validation


def few_shot(examples: Examples, shots: int, seed: int) -> tuple[Examples, Examples]:
    """Return the few-shot train and validation examples; see `few_shot_rows`."""
    train, validation = few_shot_rows(list(examples.labels or ()), shots, seed)
    return examples.take(train), examples.take(validation)
