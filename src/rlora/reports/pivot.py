"""The pivot table: scores grouped into rows and columns, and the mean of each cell."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlora.reports.differing import differing_keys
from rlora.reports.load import Score
from rlora.reports.metric_format import MetricFormat
from rlora.reports.statistics import Estimate, estimate, mean_ranks

Group = tuple[Any, ...]  # the values of some keys, in the order of the keys
DEFAULT_PAIRS = ("seed", "task.sample_seed")


@dataclass(frozen=True)
class PivotSpec:
    """The layout of a pivot table.

    Attributes:
        rows: Dotted keys whose values identify a row.
        columns: Dotted keys whose values identify a column.
        pairs: Keys that identify a run within a cell, and that pair the runs of two cells; empty
            means `DEFAULT_PAIRS`.
        interval: Kind of the confidence intervals, see `estimate`.
        spread: What follows a mean: "sd" (standard deviation) or "interval" (95 % interval).
    """

    rows: tuple[str, ...] = ("adapter",)
    columns: tuple[str, ...] = ("task",)
    pairs: tuple[str, ...] = ()
    interval: str = "t"
    spread: str = "sd"

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys of rows and columns."""
        return self.rows + self.columns


@dataclass(frozen=True)
class Cell:
    """The scores of one row and column, by the values of the pairing keys."""

    scores: dict[Group, Score]

    def values(self) -> dict[Group, float]:
        """Return the score values."""
        return {pair: score.value for pair, score in self.scores.items()}

    def mean(self) -> float:
        """Return the mean of the score values."""
        return sum(self.values().values()) / len(self.scores)

    def shown_mean(self) -> float:
        """Return the mean as tables show it, so that equal texts are equal scores."""
        return float(self.format.text(self.mean()))

    @property
    def format(self) -> MetricFormat:
        """Return the format of the scores, which all scores of a cell share."""
        return next(iter(self.scores.values())).format


@dataclass(frozen=True)
class PivotTable:
    """Scores in rows and columns.

    Attributes:
        spec: The layout, with the pairing keys in use.
        rows: Groups of the row keys, sorted.
        columns: Groups of the column keys, sorted.
        cells: Cells by row and column; an empty cell is absent.
    """

    spec: PivotSpec
    rows: list[Group]
    columns: list[Group]
    cells: dict[tuple[Group, Group], Cell] = field(repr=False)

    def estimate(self, row: Group, column: Group) -> Estimate | None:
        """Return mean and spread of a cell; None for an empty one."""
        cell = self.cells.get((row, column))
        return estimate(list(cell.values().values()), interval=self.spec.interval) if cell else None

    def ordered_cells(self) -> list[tuple[tuple[Group, Group], Cell]]:
        """Return the cells row by row."""
        order = [(row, column) for row in self.rows for column in self.columns]
        return [(key, self.cells[key]) for key in order if key in self.cells]

    def row_scores(self, row: Group) -> list[Score]:
        """Return all scores of a row."""
        cells = [cell for (other, _), cell in self.cells.items() if other == row]
        return [score for cell in cells for score in cell.scores.values()]

    def column_format(self, column: Group) -> MetricFormat:
        """Return the format of a column: that of its first cell, if metrics make the rows."""
        return next(self.cells[row, column].format for row in self.rows_with(column))

    def rows_with(self, column: Group) -> list[Group]:
        """Return the rows that have a cell in a column."""
        return [row for row in self.rows if (row, column) in self.cells]

    def complete_columns(self) -> list[Group]:
        """Return the columns in which every row has a cell."""
        return [column for column in self.columns if self.rows_with(column) == self.rows]

    def column_metrics(self, column: Group) -> list[str]:
        """Return the metrics of a column, sorted."""
        cells = [self.cells[row, column] for row in self.rows_with(column)]
        scores = [score for cell in cells for score in cell.scores.values()]
        return sorted({str(score.settings["metric"]) for score in scores})

    def column_tasks(self) -> list[tuple[str, str] | None]:
        """Return task and metric of each column; None for a column that mixes several."""
        tasks: dict[Group, set[tuple[str, str]]] = {column: set() for column in self.columns}
        for (_, column), cell in self.cells.items():
            tasks[column] |= {
                (str(score.settings["task"]), str(score.settings["metric"]))
                for score in cell.scores.values()
            }
        return [next(iter(names)) if len(names) == 1 else None for names in tasks.values()]

    def mean_ranks(self) -> dict[Group, float]:
        """Return the mean rank of each row over the complete columns.

        Ranks make sense only for two or more rows whose columns are tasks; otherwise: empty.
        """
        columns = self.complete_columns()
        if "task" not in self.spec.columns or "metric" in self.spec.keys:
            return {}
        if not columns or len(self.rows) < 2:
            return {}
        cells = [[self.cells[row, column] for column in columns] for row in self.rows]
        means = [[cell.shown_mean() for cell in row] for row in cells]
        directions = [self.column_format(column).larger_is_better for column in columns]
        return dict(zip(self.rows, mean_ranks(means, directions), strict=True))

    def best_rows(self, column: Group) -> set[Group]:
        """Return the rows with the best mean of a column, as the table shows it.

        Empty if the column has fewer than two cells, or if rows are of different tasks or metrics.
        """
        rows = self.rows_with(column)
        if {"task", "metric"} & {*self.spec.rows} or len(rows) < 2:
            return set()
        means = {row: self.cells[row, column].shown_mean() for row in rows}
        pick = max if self.column_format(column).larger_is_better else min
        best = pick(means.values())
        return {row for row, mean in means.items() if mean == best}

    def incomplete_cells(self) -> list[str]:
        """Return a text for each cell that is empty or has fewer runs than the largest cell."""
        sizes = {key: len(cell.scores) for key, cell in self.cells.items()}
        most = max(sizes.values())
        texts = []
        for row in self.rows:
            for column in self.columns:
                size = sizes.get((row, column), 0)
                if size < most:
                    name = assignments(self.spec.keys, (*row, *column))
                    texts.append(f"{name}: {size} of {most} runs")
        return texts


def pivot(scores: Sequence[Score], spec: PivotSpec) -> PivotTable:
    """Group scores into rows and columns.

    Raises:
        ValueError: No run has a key; several runs share row, column and pair; or a cell mixes
            metrics of different scales.
    """
    check_keys(scores, [*spec.keys, *spec.pairs])
    present = [key for key in DEFAULT_PAIRS if any(key in score.settings for score in scores)]
    spec = replace(spec, pairs=spec.pairs or tuple(present))
    cells: dict[tuple[Group, Group], Cell] = {}
    for score in scores:
        key = (group_of(score, spec.rows), group_of(score, spec.columns))
        pair = group_of(score, spec.pairs)
        cell = cells.setdefault(key, Cell({}))
        if pair in cell.scores:
            raise ValueError(_ambiguous_message(cell.scores[pair], score, spec))
        cell.scores[pair] = score
        if cell.format != score.format:
            raise ValueError(_mixed_message(cell, score, spec))
    metrics = list(dict.fromkeys(score.settings["metric"] for score in scores))
    return PivotTable(
        spec,
        sorted({row for row, _ in cells}, key=lambda row: _sort_key(spec.rows, row, metrics)),
        sorted(
            {column for _, column in cells},
            key=lambda column: _sort_key(spec.columns, column, metrics),
        ),
        cells,
    )


def check_keys(scores: Sequence[Score], keys: Sequence[str]) -> None:
    """Raise ValueError for a key that no run has."""
    for key in keys:
        if not any(key in score.settings for score in scores):
            raise ValueError(f"no run has the key {key}: see the config.yaml of a run for its keys")


def group_of(score: Score, keys: Sequence[str]) -> Group:
    """Return the values of keys; "" for a key that only other options of its config group have."""
    values = [score.settings.get(key, "") for key in keys]
    return tuple(str(value) if isinstance(value, list | dict) else value for value in values)


def assignments(keys: Sequence[str], group: Group) -> str:
    """Return the values of keys as text, such as "adapter=lora, seed=1"."""
    return ", ".join(f"{key}={value}" for key, value in zip(keys, group, strict=True))


def sort_key(value: Any) -> tuple[bool, Any]:
    """Return the sort key of a value: numbers by value, before text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (not is_number, value if is_number else str(value))


def _sort_key(keys: Sequence[str], group: Group, metrics: Sequence[str]) -> list[tuple[bool, Any]]:
    """Return the sort key of a row or column; metrics keep the order of the command line."""
    pairs = zip(keys, group, strict=True)
    return [sort_key(metrics.index(value) if key == "metric" else value) for key, value in pairs]


def _mixed_message(cell: Cell, score: Score, spec: PivotSpec) -> str:
    first = next(iter(cell.scores.values())).settings["metric"]
    return (
        f"runs of {assignments(spec.keys, group_of(score, spec.keys))} are scored by {first} and "
        f"{score.settings['metric']}, which have no common mean; add metric to --rows or "
        "--columns, or select one with --metric"
    )


def _ambiguous_message(first: Score, second: Score, spec: PivotSpec) -> str:
    keys = (*spec.keys, *spec.pairs)
    differing = differing_keys([first, second], keys)
    hint = "add the keys that distinguish them to"
    if differing:
        hint = f"they differ in {', '.join(differing[:5])}: add these keys to"
    return (
        f"several runs have {assignments(keys, group_of(second, keys))}; "
        f"{hint} --rows, --columns, --pairs, --where or --choose"
    )
