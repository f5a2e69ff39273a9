"""Paired differences between options, such as two adapters on the same samples and seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from rlora.reports.metric_format import MetricFormat
from rlora.reports.pivot import Cell, Group, PivotTable, sort_key
from rlora.reports.statistics import Estimate, holm, p_value, paired

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Difference:
    """The paired difference of two options of a key, with all other keys fixed.

    Attributes:
        group: Values of the other keys.
        first: The option that is subtracted.
        second: The option it is subtracted from.
        estimate: Second minus first, over their pairs.
        format: Format of the scores.
        p: Student's paired test; nan for fewer than two pairs and for equal differences.
        p_holm: `p` adjusted by Holm's method over all differences of the table.
    """

    group: Group
    first: Any
    second: Any
    estimate: Estimate
    format: MetricFormat
    p: float
    p_holm: float = math.nan

    @property
    def is_significant(self) -> bool:
        """Return whether the adjusted test rejects equality; False without a test."""
        return self.p_holm < SIGNIFICANCE


def leading_cells(table: PivotTable) -> set[tuple[Group, Group]]:
    """Return the cells, by row and column, that are ahead of all other rows of their column.

    A leading cell alone shows the best mean, and the paired test separates it from each other row:
    p below 0.05, adjusted by Holm's method over all of these tests in the table.
    """
    tests: dict[tuple[Group, Group], list[float]] = {}
    for column in table.columns:
        best = table.best_rows(column)
        if len(best) == 1:  # rows that show the same number are equal
            (row,) = best
            tests[row, column] = _tests_against_others(table, row, column)
    cells = [cell for cell, values in tests.items() for _ in values]
    adjusted = holm([p for values in tests.values() for p in values])
    behind = {cell for cell, p in zip(cells, adjusted, strict=True) if not p < SIGNIFICANCE}
    return tests.keys() - behind


def _tests_against_others(table: PivotTable, row: Group, column: Group) -> list[float]:
    values = table.cells[row, column].values()
    others = [table.cells[other, column] for other in table.rows_with(column) if other != row]
    means = [paired(other.values(), values) for other in others]
    return [math.nan if mean is None else p_value(mean) for mean in means]


def differences(
    table: PivotTable, key: str, *, options: Sequence[str] = (), baseline: str | None = None
) -> list[Difference]:
    """Compare the options of a key pairwise, with all other keys of the table fixed.

    Args:
        table: The scores.
        key: A key of the rows or columns.
        options: The options to compare, in this order; empty means all, sorted.
        baseline: The option that all others are compared with; None compares all pairs.

    Raises:
        ValueError: The key makes neither rows nor columns, or no run has one of the options.
    """
    keys = table.spec.keys
    if key == "metric" or key not in keys:
        raise ValueError(
            f"--compare {key} is invalid: expected a key of --rows or --columns ({', '.join(keys)})"
        )
    index = keys.index(key)
    groups: dict[Group, dict[Any, Cell]] = {}
    for (row, column), cell in table.ordered_cells():
        values = (*row, *column)
        group = values[:index] + values[index + 1 :]
        groups.setdefault(group, {})[values[index]] = cell
    present = {option for cells in groups.values() for option in cells}
    ordered = _ordered(present, options, key)
    pairs = list(combinations(ordered, 2))
    if baseline is not None:
        first = _ordered({*ordered}, [baseline], key)[0]
        pairs = [(first, option) for option in ordered if option != first]
    candidates = [
        _difference(group, cells, first, second, table.spec.interval)
        for group, cells in groups.items()
        for first, second in pairs
    ]
    compared = [difference for difference in candidates if difference is not None]
    adjusted = holm([difference.p for difference in compared])
    return [replace(item, p_holm=p) for item, p in zip(compared, adjusted, strict=True)]


def _difference(
    group: Group, cells: dict[Any, Cell], first: Any, second: Any, interval: str
) -> Difference | None:
    """Return the difference of two options; None if one is missing or they share no pair."""
    if first not in cells or second not in cells:
        return None
    mean = paired(cells[first].values(), cells[second].values(), interval=interval)
    if mean is None:
        return None
    return Difference(group, first, second, mean, cells[first].format, p_value(mean))


def _ordered(present: set[Any], names: Sequence[str], key: str) -> list[Any]:
    """Return the options called `names`, or all of them, sorted, if there are no names."""
    by_name = {str(option): option for option in present}
    if unknown := [name for name in names if name not in by_name]:
        known = ", ".join(sorted(by_name))
        raise ValueError(f"no run has {key}={unknown[0]}: expected one of {known}")
    return [by_name[name] for name in names] or sorted(present, key=sort_key)
