"""Seeded splits: grouped validation and few-shot samples, independent of any global random state."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from rlora.data.examples import Examples

# A group above this share of the validation size stays in train: STS-B's largest has 245 rows, against 287 wanted.
LARGEST_GROUP_SHARE = 0.25


def generator(*key: int) -> np.random.Generator:
    """Return a NumPy generator that depends on ``key`` only (Philox seeded by a SeedSequence)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def normalize(text: str) -> str:
    """Return the text in lower case with runs of white space folded to one blank."""
    return " ".join(text.lower().split())


def group_rows(texts: Sequence[tuple[str, ...]], fields: Sequence[int]) -> NDArray[np.int64]:
    """Return one group id per row (N,), where rows that share a normalized text in any of ``fields`` are one group.

    Sharing is transitive and crosses fields: a text that is one row's first field and another's second joins the two.
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
    """Return rows (rest, chosen) in file order, with at most ``size`` chosen and no group on both sides.

    Groups are drawn in seeded order and taken while they fit; very large ones always stay in the rest.

    Args:
        groups: Group id of each row (N,).
        size: Number of rows wanted.
        seed: Seed of the draw.

    Raises:
        ValueError: Nothing could be chosen, or nothing would be left.
    """
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    largest = max(1, int(size * LARGEST_GROUP_SHARE))
    chosen = np.zeros(len(names), dtype=bool)
    room = size
    for group in generator(seed).permutation(len(names)):
        if counts[group] <= min(room, largest):
            chosen[group] = True
            room -= int(counts[group])
            if room == 0:
                break
    picked = chosen[inverse]
    if not picked.any() or picked.all():
        raise ValueError(
            f"{len(groups)} training rows give no validation split of {size} rows; "
            "raise task.validation_fraction or set task.validation=dev."
        )
    return np.flatnonzero(~picked), np.flatnonzero(picked)


def sample(rows: int, size: int, seed: int) -> NDArray[np.int64]:
    """Return ``size`` of ``rows`` row numbers in file order; a larger sample of the same seed holds the smaller one.

    Raises:
        ValueError: There are fewer rows.
    """
    if size > rows:
        raise ValueError(
            f"task.train_examples={size} is more than the {rows} training rows; set it to {rows} or less."
        )
    return np.sort(generator(seed, rows).permutation(rows)[:size])


def few_shot_rows(labels: Sequence[Hashable], shots: int, seed: int) -> tuple[list[int], list[int]]:
    """Return rows of train and of validation, ``shots`` per class in each.

    The rows are shuffled by the legacy NumPy generator; each class gives its first ``shots`` rows to train and its next
    ``shots`` to validation, classes in the order in which they first appear.

    Raises:
        ValueError: A class has fewer than ``2 * shots`` rows.

    Source: LM-BFF (Gao et al., ACL 2021), princeton-nlp/LM-BFF tools/generate_k_shot_data.py.
    """
    order = list(range(len(labels)))
    # The published samples come from this generator: a newer one would draw other rows.
    np.random.RandomState(seed).shuffle(order)
    by_class: dict[Hashable, list[int]] = {}
    for row in order:
        by_class.setdefault(labels[row], []).append(row)
    for label, rows in by_class.items():
        if len(rows) < 2 * shots:
            raise ValueError(
                f"task.shots={shots} needs {2 * shots} training rows per class (train and validation), but class "
                f"{label!r} has {len(rows)}; set task.shots to at most {len(rows) // 2}."
            )
    train = [row for rows in by_class.values() for row in rows[:shots]]
    validation = [row for rows in by_class.values() for row in rows[shots : 2 * shots]]
    return train, validation


def few_shot(examples: Examples, shots: int, seed: int) -> tuple[Examples, Examples]:
    """Return the few-shot train and validation examples drawn from ``examples``; see ``few_shot_rows``."""
    train, validation = few_shot_rows(list(examples.labels or ()), shots, seed)
    return examples.take(train), examples.take(validation)
