"""Parts of the training set that share nothing: for a PAC-Bayes prior, certificates, validation.

Rows that share a text belong to one group. Where rows may contain one another, as the phrases of
SST-2 do, that rule is too strict: single words connect nearly all rows into one group. There the
groups are the texts that no other text contains (the sentences). A row goes to the part of all
sentences that contain it. A row whose sentences are in several parts goes to no part.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rlora.data.splits import generator, group_rows, normalize

PRIOR, REST = "prior", "rest"
NO_PART = -1


def containing_rows(texts: Sequence[tuple[str, ...]]) -> list[NDArray[np.int64]]:
    """Return, for each row (N), the outermost rows that contain its words as a contiguous sequence.

    An outermost row is contained in no other. A row that no other contains gives itself.

    Args:
        texts: Texts of one field each; the first of equal texts represents them.
    """
    words = [tuple(normalize(text).split()) for (text,) in texts]
    first: dict[tuple[str, ...], int] = {}
    for row, sequence in enumerate(words):
        first.setdefault(sequence, row)
    lengths = sorted({len(sequence) for sequence in first})
    # For each row, the rows whose texts contain its text.
    containers: dict[int, set[int]] = {row: set() for row in first.values()}
    for sequence, row in first.items():
        for length in lengths:
            if length >= len(sequence):
                break
            for start in range(len(sequence) - length + 1):
                inner = first.get(sequence[start : start + length])
                if inner is not None:
                    containers[inner].add(row)
    outermost = {
        row: np.array(
            sorted(outer for outer in outer_rows if not containers[outer]) or [row], dtype=np.int64
        )
        for row, outer_rows in containers.items()
    }
    return [outermost[first[sequence]] for sequence in words]


def groups_of_rows(
    texts: Sequence[tuple[str, ...]], fields: Sequence[int], *, contained: bool
) -> list[NDArray[np.int64]]:
    """Return the group ids of each row: one, or with `contained` all sentences that contain it.

    Args:
        texts: Text fields of each row.
        fields: Positions of the fields that connect rows.
        contained: Whether rows may contain one another.

    Raises:
        ValueError: `contained` is set for rows of several texts.
    """
    if not contained:
        return [np.array([group]) for group in group_rows(texts, fields)]
    if any(len(row) != 1 for row in texts):
        raise ValueError(
            "task.contained=true is invalid: expected rows of one text, not pairs; set it to false"
        )
    return containing_rows(texts)


def assign_groups(
    groups: Sequence[NDArray[np.int64]], shares: Mapping[str, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Assign groups to parts in seeded order, and return the rows of each part in file order.

    A row whose groups are in several parts is in none.

    Args:
        groups: Group ids of each row, see `groups_of_rows`.
        shares: Share of the rows by part; the sum is 1.
        seed: Seed of the order.

    Raises:
        ValueError: A part has no rows.
    """
    names = np.unique(np.concatenate(list(groups)))
    weight = dict.fromkeys(names.tolist(), 0.0)
    for members in groups:
        for group in members.tolist():
            weight[group] += 1 / len(members)
    order = generator(seed).permutation(names)
    # In this order the groups cover the interval [0, rows]; the midpoint of a group gives its part.
    ends = np.cumsum([weight[group] for group in order.tolist()])
    midpoints = ends - np.array([weight[group] for group in order.tolist()]) / 2
    edges = np.cumsum(list(shares.values()))[:-1] * ends[-1]
    numbers = np.searchsorted(edges, midpoints, side="right").tolist()
    part_of = dict(zip(order.tolist(), numbers, strict=True))
    part_of_row = np.array(
        [_only_part({part_of[group] for group in members.tolist()}) for members in groups]
    )
    parts = {name: np.flatnonzero(part_of_row == number) for number, name in enumerate(shares)}
    if empty := [name for name, rows in parts.items() if not len(rows)]:
        raise ValueError(
            f"{len(groups)} training rows in {len(names)} groups leave no rows for "
            f"{', '.join(empty)} at the shares {dict(shares)}; change task.prior_fraction, or use "
            "more rows"
        )
    return parts


def _only_part(parts: set[int]) -> int:
    return parts.pop() if len(parts) == 1 else NO_PART


def one_row_per_group(groups: Sequence[NDArray[np.int64]], seed: int) -> NDArray[np.int64]:
    """Sample rows of which no two share a group; return them in file order.

    The rows are tried in seeded order.
    """
    used: set[int] = set()
    chosen = []
    for row in generator(seed).permutation(len(groups)).tolist():
        members = groups[row].tolist()
        if used.isdisjoint(members):
            used.update(members)
            chosen.append(row)
    return np.array(sorted(chosen), dtype=np.int64)
