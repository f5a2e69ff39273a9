"""The main table of a report: mean scores with their spread, and published scores below."""

from collections.abc import Sequence
from statistics import fmean

from rlora.reports.load import unique_runs
from rlora.reports.metric_format import PERCENT
from rlora.reports.pivot import Cell, Group, PivotTable
from rlora.reports.published import PublishedRow
from rlora.reports.tables import (
    Table,
    first_texts,
    group_label,
    interval_name,
    interval_text,
    range_text,
    short_names,
)


def score_table(table: PivotTable, split: str, published: Sequence[PublishedRow] = ()) -> Table:
    """Return means with their spread, the best of each column in bold.

    The column `mean` averages over all columns if they are tasks in percent. The column `rank`
    is the mean rank over the tasks that all rows have.

    Args:
        table: The scores.
        split: Name of the split, for the title.
        published: Scores from papers; they count neither for bold cells nor for ranks.
    """
    ranks, has_mean = table.mean_ranks(), _has_mean(table)
    show_n = len(_sizes(table)) > 1
    header = [*short_names(table.spec.rows), "params", *map(group_label, table.columns)]
    header += [*(["mean"] if has_mean else []), *(["rank"] if ranks else [])]
    first_score = len(table.spec.rows) + 1
    scores = Table(f"Scores on the {split} split", header, [], len(table.spec.rows))
    for row in table.rows:
        texts = [*map(str, row), _parameters(table, row)]
        texts += [_cell_text(table, row, column, show_n=show_n) for column in table.columns]
        texts += [_row_mean(table, row)] if has_mean else []
        texts += [f"{ranks[row]:.2f}"] if ranks else []
        scores.rows.append(texts)
    for index, column in enumerate(table.columns, start=first_score):
        best = table.best_rows(column)
        scores.bold |= {(number, index) for number, row in enumerate(table.rows) if row in best}
    scores.notes += _notes(table, has_mean=has_mean, has_ranks=bool(ranks))
    _add_published(scores, table, published)
    return scores


def _sizes(table: PivotTable) -> set[int]:
    """Return the numbers of runs that occur in cells."""
    return {len(cell.scores) for cell in table.cells.values()}


def _parameters(table: PivotTable, row: Group) -> str:
    """Return the trainable parameters of the adapter; the head is the same in all rows."""
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


def _cell_text(table: PivotTable, row: Group, column: Group, *, show_n: bool) -> str:
    """Return the mean of a cell with its spread; "" for an empty cell."""
    mean = table.estimate(row, column)
    if mean is None:
        return ""
    scale = table.cells[row, column].format
    text = scale.text(mean.mean)
    if mean.n > 1 and table.spec.spread == "sd":
        text += f" ± {scale.text(mean.sd)}"
    elif mean.n > 1:
        text += f" {interval_text(mean, scale)}"
    return text + (f" ({mean.n})" if show_n else "")


def _notes(table: PivotTable, *, has_mean: bool, has_ranks: bool) -> list[str]:
    notes = [f"{_spread_note(table)}; {_size_note(table)}{_metric_note(table)}"]
    notes.append("params: trainable parameters of the adapter, without the head")
    if has_mean:
        notes.append(f"mean: over all {len(table.columns)} columns, for rows that have them all")
    if has_ranks:
        notes.append("rank: mean rank over the columns that all rows have; 1 is best")
    incomplete = table.incomplete_cells()
    if incomplete:
        notes.append("incomplete: " + first_texts(incomplete))
    return notes


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
    """Return the metric of each column; "" if metrics are a key of the table."""
    if "metric" in table.spec.keys:
        return ""
    columns: dict[str, list[str]] = {}
    for column in table.columns:
        cells = [table.cells[row, column] for row in table.rows_with(column)]
        metrics = {
            str(score.settings["metric"]) for cell in cells for score in cell.scores.values()
        }
        columns.setdefault(" or ".join(sorted(metrics)), []).append(group_label(column))
    if len(columns) == 1:
        return f"; {next(iter(columns))}"
    return "; " + "; ".join(f"{metric}: {', '.join(names)}" for metric, names in columns.items())


def _add_published(scores: Table, table: PivotTable, published: Sequence[PublishedRow]) -> None:
    """Add published scores as rows with numbered sources."""
    sources = list(dict.fromkeys(row.source for row in published))
    for row in published:
        label = f"{row.adapter}, {row.model} [{sources.index(row.source) + 1}]"
        values = [row.scores.get(column, "") if column else "" for column in table.column_tasks()]
        texts = [label, *[""] * (scores.text_columns - 1), row.trained, *values]
        scores.rows.append(texts + [""] * (len(scores.header) - len(texts)))
    scores.notes += [
        f"[{number}] published, not measured here: {source}"
        for number, source in enumerate(sources, start=1)
    ]
