"""Options compared with each other on the same samples or seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from rlora.reports.metrics import Shown
from rlora.reports.pivot import Cell, Grid, Key, rank
from rlora.reports.statistics import Estimate, holm, p_value, paired


@dataclass(frozen=True)
class Difference:
    """One option against another in one setting.

    Attributes:
        setting: Values of the other keys.
        first: An option.
        second: Another one.
        estimate: Second minus first over their pairs.
        shown: How it is shown.
        p: Student's paired test; nan for fewer than two pairs.
        p_holm: The same, adjusted over all differences of the table.
    """

    setting: Key
    first: Any
    second: Any
    estimate: Estimate
    shown: Shown
    p: float
    p_holm: float = math.nan


def differences(
    grid: Grid, key: str, *, options: Sequence[str] = (), baseline: str | None = None
) -> list[Difference]:
    """Compare the options of one of the grid's keys, pair by pair, within each setting of the others.

    Args:
        grid: The runs.
        key: One of its rows' or columns' keys.
        options: Their order, as typed; empty: as they sort.
        baseline: The option that the others are compared with; None: each with each.

    Raises:
        ValueError: the key makes neither rows nor columns, or an option that no run has.
    """
    names = grid.layout.keys
    if key == "metric" or key not in names:
        raise ValueError(
            f"--compare {key} needs it among the keys of --rows or --columns ({', '.join(names)})"
        )
    place = names.index(key)
    cells: dict[Key, dict[Any, Cell]] = {}
    for (row, column), cell in grid.in_order():
        whole = (*row, *column)
        setting, option = whole[:place] + whole[place + 1 :], whole[place]
        cells.setdefault(setting, {})[option] = cell
    found_options = _ordered({option for found in cells.values() for option in found}, options, key)
    wanted = list(combinations(found_options, 2))
    if baseline is not None:
        first = _ordered(set(found_options), [baseline], key)[0]
        wanted = [(first, option) for option in found_options if option != first]
    made = []
    for setting in cells:
        for first, second in wanted:
            if first not in cells[setting] or second not in cells[setting]:
                continue
            one, other = cells[setting][first], cells[setting][second]
            found = paired(one.scores(), other.scores(), interval=grid.layout.interval)
            if found is not None:
                made.append(Difference(setting, first, second, found, one.shown, p_value(found)))
    adjusted = holm([item.p for item in made])
    return [replace(item, p_holm=p) for item, p in zip(made, adjusted, strict=True)]


def _ordered(there: set[Any], typed: Sequence[str], key: str) -> list[Any]:
    by_name = {str(option): option for option in there}
    if unknown := [name for name in typed if name not in by_name]:
        known = ", ".join(sorted(by_name))
        raise ValueError(f"no run has {key}={unknown[0]}: there is {known}")
    return [by_name[name] for name in typed] or sorted(there, key=rank)
