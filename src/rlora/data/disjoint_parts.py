"""The training set in parts that share nothing: for a PAC-Bayes prior, for its certificate, and for choices between.

Rows that share a text belong together. Where rows may contain one another, as SST-2's phrases do, strict groups do not
exist: single words tie nearly all rows into one. There the texts that no other contains, its sentences, are dealt out
instead; a row goes where all the sentences that contain it went, and a row whose sentences are not all in one part is
in none.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rlora.data.splits import generator, group_rows, normalize

PRIOR, REST = "prior", "rest"


def containing(texts: Sequence[tuple[str, ...]]) -> list[NDArray[np.int64]]:
    """For every row (N), the rows whose text holds its own word for word and that no other holds; itself if none does.

    Args:
        texts: Texts of one field each; of rows with the same text the first stands for all.
    """
    words = [tuple(normalize(text).split()) for (text,) in texts]
    first: dict[tuple[str, ...], int] = {}
    for row, own in enumerate(words):
        first.setdefault(own, row)
    lengths = sorted({len(own) for own in first})
    inside: dict[int, set[int]] = {
        row: set() for row in first.values()
    }  # row to the rows whose texts hold it
    for own, row in first.items():
        for length in lengths:
            if length >= len(own):
                break
            for start in range(len(own) - length + 1):
                other = first.get(own[start : start + length])
                if other is not None:
                    inside[other].add(row)
    outermost = {
        row: np.array(
            sorted(holder for holder in holders if not inside[holder]) or [row], dtype=np.int64
        )
        for row, holders in inside.items()
    }
    return [outermost[first[own]] for own in words]


def owners(
    texts: Sequence[tuple[str, ...]], fields: Sequence[int], *, contained: bool
) -> list[NDArray[np.int64]]:
    """For every row, the groups it belongs to: one, or, with `contained`, all the sentences that hold it.

    Raises:
        ValueError: `contained` for rows of several texts.
    """
    if not contained:
        return [np.array([group]) for group in group_rows(texts, fields)]
    if any(len(row) != 1 for row in texts):
        raise ValueError("task.contained is for rows of one text, not for pairs")
    return containing(texts)


def deal(
    groups: Sequence[NDArray[np.int64]], shares: Mapping[str, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Rows of each part in file order: groups are dealt out in seeded order, a row of several parts goes to none.

    Args:
        groups: The groups of each row, see `owners`.
        shares: Share of the groups' rows by part; together 1.
        seed: Of the order.

    Raises:
        ValueError: a part is left without rows.
    """
    names = np.unique(np.concatenate(list(groups)))
    weight = dict.fromkeys(names.tolist(), 0.0)
    for own in groups:
        for group in own.tolist():
            weight[group] += 1 / len(own)
    order = generator(seed).permutation(names)
    # a group goes where its middle falls on the line of all rows
    ends = np.cumsum([weight[group] for group in order.tolist()])
    middles = ends - np.array([weight[group] for group in order.tolist()]) / 2
    edges = np.cumsum(list(shares.values()))[:-1] * ends[-1]
    part_of = dict(
        zip(order.tolist(), np.searchsorted(edges, middles, side="right").tolist(), strict=True)
    )
    parts = np.array([_only({part_of[group] for group in own.tolist()}) for own in groups])
    found = {name: np.flatnonzero(parts == number) for number, name in enumerate(shares)}
    if empty := [name for name, rows in found.items() if not len(rows)]:
        raise ValueError(
            f"{len(groups)} training rows in {len(names)} groups leave no rows for {', '.join(empty)} at the shares "
            f"{dict(shares)}: change task.prior_fraction, or use more rows"
        )
    return found


def _only(parts: set[int]) -> int:
    return parts.pop() if len(parts) == 1 else -1


def one_of_each(groups: Sequence[NDArray[np.int64]], seed: int) -> NDArray[np.int64]:
    """Rows drawn so that no two share a group, in file order; rows are tried in seeded order."""
    taken: set[int] = set()
    chosen = []
    for row in generator(seed).permutation(len(groups)).tolist():
        own = groups[row].tolist()
        if taken.isdisjoint(own):
            taken.update(own)
            chosen.append(row)
    return np.array(sorted(chosen), dtype=np.int64)
