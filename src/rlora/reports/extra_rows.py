"""Rows that are compared with by eye only: the majority class, published runs, papers' scores.

They count neither for means, tests and ranks, nor for bold cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rlora.reports.load import LoadResult, Score, unique_runs
from rlora.reports.pivot import Group, PivotTable, group_of, pivot
from rlora.reports.provenance import published_data_warnings
from rlora.reports.published import PublishedRow
from rlora.reports.select import matching_scores
from rlora.reports.tables import range_text, spread_text, value_text

LABEL_COUNTS = "label_counts"  # in record.data: by split, rows by label
PUBLISHED = "(published)"


@dataclass(frozen=True)
class ExtraRow:
    """A row of the score table that was not measured by the user's runs.

    Attributes:
        labels: Text of the row's keys; fewer than the table has leave the others empty.
        parameters: Trainable parameters of the adapter, as text.
        scores: Text of the cell in each column that has one.
    """

    labels: list[str]
    parameters: str
    scores: Mapping[Group, str]


def majority_row(table: PivotTable) -> ExtraRow | None:
    """Return the scores of always predicting the most frequent class of the scored split.

    A column has a score if its records hold the split's label counts and its metric has a value
    for a constant prediction. None without such a column.
    """
    scores = {}
    for column in table.columns:
        runs = [
            score
            for row in table.rows_with(column)
            for score in table.cells[row, column].scores.values()
        ]
        values = [majority_score(run) for run in runs]
        known = [value for value in values if value is not None]
        if len(known) == len(runs):
            scores[column] = table.column_format(column).text(fmean(known))
    return ExtraRow(["majority class"], "", scores) if scores else None


def majority_score(run: Score) -> float | None:
    """Return the score of the most frequent class of a run's split; None if it is not known.

    f1 is that of the second label, as in GLUE.
    """
    counts = run.record.data.get(LABEL_COUNTS)
    by_label = counts.get(run.split) if isinstance(counts, dict) else None
    if not isinstance(by_label, dict) or not by_label:
        return None
    numbers = [int(count) for count in by_label.values()]
    share = max(numbers) / sum(numbers)
    metric = str(run.settings["metric"]).rpartition("/")[2]
    if metric == "f1" and len(numbers) == 2:
        return 2 * share / (1 + share) if numbers[1] >= numbers[0] else 0.0
    return {"accuracy": share, "matthews": 0.0}.get(metric)


def paper_rows(rows: Sequence[PublishedRow], table: PivotTable) -> tuple[list[ExtraRow], list[str]]:
    """Return the scores that papers print, and their sources as notes."""
    sources = list(dict.fromkeys(row.source for row in rows))
    columns = dict(zip(table.columns, table.column_tasks(), strict=True))
    extra = [
        ExtraRow(
            [f"{row.adapter}, {row.model} [{sources.index(row.source) + 1}]"],
            row.trained,
            {
                column: row.scores[task]
                for column, task in columns.items()
                if task is not None and task in row.scores
            },
        )
        for row in rows
    ]
    notes = [
        f"[{number}] published, not measured here: {source}"
        for number, source in enumerate(sources, start=1)
    ]
    return extra, notes


def reference_rows(
    reference: LoadResult, own: Sequence[Score], where: Mapping[str, str], table: PivotTable
) -> tuple[list[ExtraRow], list[str]]:
    """Return a row per row of published records, and a note on where they come from.

    Args:
        reference: Scores of the published records.
        own: Scores of the user's runs.
        where: Conditions that the user's runs meet too, see `filter_scores`.
        table: The user's scores. Only their columns and metrics are shown.

    Raises:
        ValueError: Several published runs share a row, a column and a pair.
    """
    scores = [
        score
        for score in reference.scores
        if group_of(score, table.spec.columns) in table.columns
        and str(score.settings["metric"])
        in table.column_metrics(group_of(score, table.spec.columns))
    ]
    scores = matching_scores(scores, where)
    if not scores:
        return [], ["--reference: no published run fits the columns and conditions of this table"]
    try:
        published = pivot(scores, table.spec)
    except ValueError as error:
        raise ValueError(f"--reference: {error}") from None
    rows = []
    for row in published.rows:
        labels = [value_text(value) for value in row] or ["all"]
        runs = unique_runs(published.row_scores(row))
        cells = {
            column: spread_text(published, row, column, show_n=True) for column in published.columns
        }
        rows.append(
            ExtraRow(
                [f"{labels[0]} {PUBLISHED}", *labels[1:]],
                range_text([run.record.parameters.adapter for run in runs]),
                cells,
            )
        )
    days = sorted(score.record.run.started[:10] for score in scores)
    dates = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    notes = [
        f"{PUBLISHED}: {len(unique_runs(scores))} published runs of {dates}, not runs of yours; "
        "number of runs in brackets; they have no part in tests, ranks and bold cells"
    ]
    copies = {_execution(score) for score in own} & {_execution(score) for score in scores}
    if copies:
        notes.append(
            f"warning: {len(copies)} of the runs that are reported as yours are published ones"
        )
    return rows, notes + published_data_warnings(own, scores)


def _execution(score: Score) -> tuple[str, str]:
    """Return what identifies one execution of a run, wherever its record is."""
    return score.record.run.config_hash, score.record.run.started
