"""The main table of a report: mean scores with their spread, and rows to compare them with."""

from collections.abc import Sequence
from statistics import fmean

from rlora.reports.extra_rows import ExtraRow
from rlora.reports.load import unique_runs
from rlora.reports.metric_format import PERCENT
from rlora.reports.paired import SIGNIFICANCE, leading_cells
from rlora.reports.pivot import Cell, Group, PivotTable
from rlora.reports.tables import (
    ADAPTER_PARAMETERS,
    NONE,
    Table,
    column_label,
    first_texts,
    group_label,
    interval_name,
    range_text,
    short_names,
    spread_text,
    value_text,
)


def score_table(table: PivotTable, split: str, extra: Sequence[ExtraRow] = ()) -> Table:
    """Return means with their spread; bold cells are ahead of all others, see `leading_cells`.

    The column `mean` averages over all columns if they are tasks in percent. The column `rank`
    is the mean rank over the tasks that all rows have.

    Args:
        table: The scores.
        split: Name of the split, for the title.
        extra: Rows below that count neither for bold cells nor for ranks.
    """
    ranks, has_mean = table.mean_ranks(), _has_mean(table)
    show_n = len(_sizes(table)) > 1
    header = [*short_names(table.spec.rows), ADAPTER_PARAMETERS]
    header += [column_label(table, column) for column in table.columns]
    header += [*(["mean"] if has_mean else []), *(["rank"] if ranks else [])]
    text_columns = len(table.spec.rows)
    scores = Table(f"Scores on the {split} split", header, [], text_columns, name="scores")
    for row in table.rows:
        texts = [*map(value_text, row), _parameters(table, row)]
        texts += [spread_text(table, row, column, show_n=show_n) for column in table.columns]
        texts += [_row_mean(table, row)] if has_mean else []
        texts += [f"{ranks[row]:.2f}"] if ranks else []
        scores.rows.append(texts)
    leading = leading_cells(table)
    scores.bold = {
        (table.rows.index(row), text_columns + 1 + table.columns.index(column))
        for row, column in leading
    }
    scores.notes += _notes(table, has_mean=has_mean, has_ranks=bool(ranks))
    scores.notes += _bold_note(table, any_bold=bool(leading))
    scores.rows += [_extra_texts(row, table, len(header)) for row in extra]
    return scores


def _extra_texts(row: ExtraRow, table: PivotTable, width: int) -> list[str]:
    empty = [""] * (len(table.spec.rows) - len(row.labels))
    texts = [*row.labels, *empty, row.parameters]
    texts += [row.scores.get(column, "") for column in table.columns]
    return texts + [""] * (width - len(texts))


def _sizes(table: PivotTable) -> set[int]:
    """Return the numbers of runs that occur in cells."""
    return {len(cell.scores) for cell in table.cells.values()}


def _parameters(table: PivotTable, row: Group) -> str:
    runs = unique_runs(table.row_scores(row))
    return range_text([run.record.parameters.adapter for run in runs])


def _has_mean(table: PivotTable) -> bool:
    """Return whether a mean over columns makes sense: several tasks, all in percent."""
    tasks = "task" in table.spec.columns and "metric" not in table.spec.keys
    percent = all(cell.format == PERCENT for cell in table.cells.values())
    return len(table.columns) > 1 and tasks and percent


def _row_mean(table: PivotTable, row: Group) -> str:
    """Return the mean over all columns; "" for a row that lacks one."""
    if any((row, column) not in table.cells for column in table.columns):
        return ""
    return PERCENT.text(fmean(table.cells[row, column].mean() for column in table.columns))


def _notes(table: PivotTable, *, has_mean: bool, has_ranks: bool) -> list[str]:
    notes = [f"{_spread_note(table)}; {_size_note(table)}{_metric_note(table)}"]
    smaller = {
        str(score.settings["metric"])
        for cell in table.cells.values()
        for score in cell.scores.values()
        if not cell.format.larger_is_better
    }
    if smaller:
        notes.append(f"smaller is better: {', '.join(sorted(smaller))}")
    if table.spec.spread == "interval" and _has_equal_runs(table):
        notes.append(f"{NONE}: the scores are equal in all runs, which leaves no interval")
    if has_mean:
        notes.append(f"mean: over all {len(table.columns)} columns, for rows that have them all")
    if has_ranks:
        notes.append("rank: mean rank over the columns that all rows have; 1 is best")
    incomplete = table.incomplete_cells()
    if incomplete:
        notes.append("incomplete: " + first_texts(incomplete))
    return notes


def _has_equal_runs(table: PivotTable) -> bool:
    means = [table.estimate(row, column) for row, column in table.cells]
    return any(mean is not None and mean.n > 1 and not mean.has_spread for mean in means)


def _bold_note(table: PivotTable, *, any_bold: bool) -> list[str]:
    """Return what bold cells mean, or why there are none."""
    test = f"the paired t-test (Holm-adjusted over this table, p < {SIGNIFICANCE})"
    if any_bold:
        return [f"bold: ahead of each other row of its column by {test}"]
    if not any(map(table.best_rows, table.columns)):
        return []  # one row, or rows of different tasks: nothing to compare
    if max(_sizes(table)) < 2:
        return ["none is bold, and there are no paired differences: they need two seeds or more"]
    return [f"none is bold: no row is ahead of each other row of its column by {test}"]


def _spread_note(table: PivotTable) -> str:
    """Return what a cell shows, and its unit."""
    spread = "± sd" if table.spec.spread == "sd" else f"[{interval_name(table)} 95 % interval]"
    shown = "score" if _sizes(table) == {1} else f"mean {spread}"
    formats = {
        str(score.settings["metric"]): cell.format
        for cell in table.cells.values()
        for score in cell.scores.values()
    }
    others = [metric for metric, scale in formats.items() if not scale.percent]
    unit = "" if len(others) == len(formats) else " in percent"
    if others and unit:
        unit += f", except {' and '.join(others)}"
    return f"{shown}{unit}"


def _size_note(table: PivotTable) -> str:
    sizes, pairs = _sizes(table), ", ".join(short_names(table.spec.pairs))
    if len(sizes) > 1:
        return f"number of runs ({pairs}) in brackets"
    (n,) = sizes
    if not all(_has_one_run_per_seed(cell) for cell in table.cells.values()):
        return f"n = {n} runs ({pairs})"
    return f"n = {n} seed{'s' if n > 1 else ''}"


def _has_one_run_per_seed(cell: Cell) -> bool:
    seeds = {score.settings["seed"] for score in cell.scores.values()}
    return len(seeds) == len(cell.scores)


def _metric_note(table: PivotTable) -> str:
    """Return the metrics of columns that mix several; "" where the header names the metric."""
    if "metric" in table.spec.keys:
        return ""
    mixed = {column: table.column_metrics(column) for column in table.columns}
    texts = [
        f"{group_label(column)}: {' or '.join(metrics)}"
        for column, metrics in mixed.items()
        if len(metrics) > 1
    ]
    return "".join(f"; {text}" for text in texts)
