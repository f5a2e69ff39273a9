"""Runs laid out in rows and columns: which belong together, and their means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlora.reports.load import Measured
from rlora.reports.metrics import Shown
from rlora.reports.statistics import Estimate, estimate, mean_ranks

Key = tuple[Any, ...]
USUAL_PAIRS = ("seed", "task.sample_seed")
SILENT = (
    "seed",
    "_target_",
    "paths",
    "logger",
    "choices",
    "study",
)  # differences nobody would name a row by


@dataclass(frozen=True)
class Layout:
    """How runs are laid out.

    Attributes:
        rows: Dotted keys whose values make a row.
        columns: The same for columns.
        pairs: Keys that tell the runs of one cell apart, and pair those of two; empty: the usual ones.
        interval: See `estimate`.
        spread: What stands beside a mean: "sd" (standard deviation) or "interval" (its 95 % interval).
    """

    rows: tuple[str, ...] = ("adapter",)
    columns: tuple[str, ...] = ("task",)
    pairs: tuple[str, ...] = ()
    interval: str = "t"
    spread: str = "sd"

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of rows and columns."""
        return self.rows + self.columns


@dataclass(frozen=True)
class Cell:
    """The runs of one row and column, by what pairs them."""

    runs: dict[Key, Measured]

    def scores(self) -> dict[Key, float]:
        """Scores by pair."""
        return {pair: run.score for pair, run in self.runs.items()}

    @property
    def shown(self) -> Shown:
        """How its scores are shown, which is the same of all."""
        return next(iter(self.runs.values())).shown


@dataclass(frozen=True)
class Grid:
    """Runs laid out.

    Attributes:
        layout: How; with the pairs that were used.
        rows: Values of the rows' keys, sorted.
        columns: Values of the columns' keys, sorted.
        cells: By row and column, where there are runs.
    """

    layout: Layout
    rows: list[Key]
    columns: list[Key]
    cells: dict[tuple[Key, Key], Cell] = field(repr=False)

    def estimate(self, row: Key, column: Key) -> Estimate | None:
        """Mean and spread of a cell; None for an empty one."""
        cell = self.cells.get((row, column))
        return (
            estimate(list(cell.scores().values()), interval=self.layout.interval) if cell else None
        )

    def in_order(self) -> list[tuple[tuple[Key, Key], Cell]]:
        """The cells, row by row."""
        places = ((row, column) for row in self.rows for column in self.columns)
        return [(place, self.cells[place]) for place in places if place in self.cells]

    def shown(self, column: Key) -> Shown:
        """How a column's scores are shown; its first cell's, where metrics make the rows."""
        return next(
            self.cells[row, column].shown for row in self.rows if (row, column) in self.cells
        )

    def places(self) -> list[tuple[str, str] | None]:
        """Task and metric of each column; None for one of several."""
        found: dict[Key, set[tuple[str, str]]] = {column: set() for column in self.columns}
        for (_, column), cell in self.cells.items():
            found[column] |= {
                (str(run.facts["task"]), str(run.facts["metric"])) for run in cell.runs.values()
            }
        return [next(iter(places)) if len(places) == 1 else None for places in found.values()]

    def ranks(self) -> dict[Key, float]:
        """Mean rank of each row over the tasks that all have; empty where columns are no tasks, or no two rows."""
        if "task" not in self.layout.columns or "metric" in self.layout.keys:
            return {}
        full = [
            column
            for column in self.columns
            if all((row, column) in self.cells for row in self.rows)
        ]
        if not full or len(self.rows) < 2:
            return {}
        means = [[_mean(self.cells[row, column]) for column in full] for row in self.rows]
        found = mean_ranks(means, [self.shown(column).larger_is_better for column in full])
        return dict(zip(self.rows, found, strict=True))

    def best(self, column: Key) -> set[Key]:
        """Rows with a column's best mean, where there are two at least; empty where rows are of different tasks."""
        if {"task", "metric"} & {*self.layout.rows}:
            return set()
        means = {
            row: _mean(self.cells[row, column]) for row in self.rows if (row, column) in self.cells
        }
        if len(means) < 2:
            return set()
        top = (max if self.shown(column).larger_is_better else min)(means.values())
        return {row for row, mean in means.items() if mean == top}

    def uneven(self) -> list[str]:
        """Sentences on cells that are empty or hold fewer runs than the fullest."""
        sizes = {place: len(cell.runs) for place, cell in self.cells.items()}
        most = max(sizes.values())
        told = []
        for row in self.rows:
            for column in self.columns:
                size = sizes.get((row, column), 0)
                if size < most:
                    name = ", ".join(
                        _told(self.layout.rows, row) + _told(self.layout.columns, column)
                    )
                    told.append(f"{name}: {size} of {most} runs")
        return told


def lay_out(runs: Sequence[Measured], layout: Layout) -> Grid:
    """Lay runs out in rows and columns.

    Raises:
        ValueError: a key that no run has, or several runs of one row, column and pair.
    """
    check_known(runs, [*layout.rows, *layout.columns, *layout.pairs])
    pairs = layout.pairs or tuple(
        key for key in USUAL_PAIRS if any(key in run.facts for run in runs)
    )
    layout = replace(layout, pairs=pairs)
    cells: dict[tuple[Key, Key], Cell] = {}
    for run in runs:
        row, column, pair = (_values(run, keys) for keys in (layout.rows, layout.columns, pairs))
        cell = cells.setdefault((row, column), Cell({}))
        if pair in cell.runs:
            raise ValueError(_ambiguous(cell.runs[pair], run, layout))
        cell.runs[pair] = run
        if cell.shown != run.shown:
            raise ValueError(_mixed(cell, run, layout))
    asked = list(dict.fromkeys(run.facts["metric"] for run in runs))
    return Grid(
        layout,
        sorted({row for row, _ in cells}, key=lambda row: _place(layout.rows, row, asked)),
        sorted(
            {column for _, column in cells},
            key=lambda column: _place(layout.columns, column, asked),
        ),
        cells,
    )


def _place(names: Sequence[str], values: Key, asked: Sequence[str]) -> list[tuple[bool, Any]]:
    """What rows and columns sort by; metrics stand as they were asked for."""
    pairs = zip(names, values, strict=True)
    return order(tuple(asked.index(value) if name == "metric" else value for name, value in pairs))


def _mixed(cell: Cell, run: Measured, layout: Layout) -> str:
    keys = (*layout.rows, *layout.columns)
    told = ", ".join(_told(keys, _values(run, keys)))
    first = next(iter(cell.runs.values())).facts["metric"]
    return (
        f"runs of {told} are scored by {first} and {run.facts['metric']}, which have no mean; name metric in --rows or "
        "--columns, or one with --metric"
    )


def choose(runs: Sequence[Measured], layout: Layout, keys: Sequence[str]) -> list[Measured]:
    """Keep, for each row and column, the runs whose values of these keys have the best mean on validation.

    Values that were tried with fewer runs than others are left out, lest one lucky run be chosen.

    Raises:
        ValueError: a key that no run has, or a run that was not scored on validation.
    """
    check_known(runs, [*layout.rows, *layout.columns, *keys])
    tried: dict[tuple[Key, Key], dict[Key, list[Measured]]] = {}
    for run in runs:
        if run.validation is None:
            raise ValueError(
                f"--choose needs validation scores, and the run in {run.record.run.directory} has none"
            )
        place = (_values(run, layout.rows), _values(run, layout.columns))
        tried.setdefault(place, {}).setdefault(_values(run, keys), []).append(run)
    kept: list[Measured] = []
    for options in tried.values():
        most = max(map(len, options.values()))
        full = [group for group in options.values() if len(group) == most]
        kept += max(full, key=lambda group: sum(run.validation or 0.0 for run in group))
    return kept


def where(runs: Sequence[Measured], conditions: Mapping[str, str]) -> list[Measured]:
    """The runs whose keys have one of these values, as one would type them: "lora" or "lora|rlora".

    Raises:
        ValueError: a key that no run has, or no run is left.
    """
    check_known(runs, list(conditions))
    asked = {key: value.split("|") for key, value in conditions.items()}
    left = [
        run
        for run in runs
        if all(str(run.facts.get(key)) in values for key, values in asked.items())
    ]
    if not left:
        told = ", ".join(f"{key}={value}" for key, value in conditions.items())
        raise ValueError(f"none of {len(runs)} runs has {told}")
    return left


def check_known(runs: Sequence[Measured], names: Sequence[str]) -> None:
    """Refuse a key that no run has."""
    for name in names:
        if not any(name in run.facts for run in runs):
            raise ValueError(
                f"no run has the key {name}: see a run's config.yaml for the keys there are"
            )


def _ambiguous(first: Measured, second: Measured, layout: Layout) -> str:
    keys = (*layout.rows, *layout.columns, *layout.pairs)
    told = ", ".join(_told(keys, _values(second, keys)))
    named = {*keys, *(name for key in keys for name in first.facts if name.startswith(f"{key}."))}
    differing = [
        name
        for name in sorted(first.facts.keys() | second.facts.keys())
        if name not in named
        and name.partition(".")[0] not in SILENT
        and first.facts.get(name) != second.facts.get(name)
    ]
    hint = (
        f"they differ in {', '.join(differing[:5])}: name it"
        if differing
        else "name the keys that tell them apart,"
    )
    return f"several runs have {told}; {hint} in --rows, --columns, --pairs, --where or --choose"


def _mean(cell: Cell) -> float:
    return sum(run.score for run in cell.runs.values()) / len(cell.runs)


def _values(run: Measured, names: Sequence[str]) -> Key:
    return tuple(
        _hashable(run.facts.get(name, "")) for name in names
    )  # another option of the group may lack the key


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value


def _told(names: Sequence[str], values: Sequence[Any]) -> list[str]:
    return [f"{name}={value}" for name, value in zip(names, values, strict=True)]


def order(values: Key) -> list[tuple[bool, Any]]:
    """What settings sort by."""
    return [rank(value) for value in values]


def rank(value: Any) -> tuple[bool, Any]:
    """What values sort by: numbers before words."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (not number, value if number else str(value))
