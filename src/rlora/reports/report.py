"""A report: the pivot table, the comparisons and all tables, ready for output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlora.reports import published, tables
from rlora.reports.load import LoadResult, Score, SkippedRun
from rlora.reports.paired import differences
from rlora.reports.pivot import PivotSpec, PivotTable, pivot
from rlora.reports.score_table import score_table
from rlora.reports.select import choose_best, filter_scores
from rlora.reports.tables import Table


@dataclass(frozen=True)
class ReportSpec:
    """The content of a report.

    Attributes:
        pivot: Layout of the score table.
        compare: Key whose options are compared.
        options: Options to compare, in this order; empty means all.
        baseline: Option that all others are compared with; None compares all pairs.
        where: Conditions by key, see `filter_scores`.
        choose: Keys whose values are chosen on validation, see `choose_best`.
        split: Split of the scores.
        published: Models whose published scores are added.
        title: Title.
    """

    pivot: PivotSpec = field(default_factory=PivotSpec)
    compare: str = "adapter"
    options: Sequence[str] = ()
    baseline: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    choose: Sequence[str] = ()
    split: str = "test"
    published: Sequence[str] = ()
    title: str = "Comparison of adapters"


@dataclass(frozen=True)
class Report:
    """A finished report.

    Attributes:
        spec: Its content.
        scores: Scores that count.
        pivot: The same scores in rows and columns.
        tables: All tables; the first holds the scores.
        skipped: Runs that do not count.
        unfinished: Number of unfinished runs.
    """

    spec: ReportSpec
    scores: list[Score]
    pivot: PivotTable
    tables: list[Table]
    skipped: list[SkippedRun]
    unfinished: int


def make_report(loaded: LoadResult, spec: ReportSpec) -> Report:
    """Return the report of loaded runs.

    Raises:
        ValueError: The spec does not fit the runs.
    """
    scores = filter_scores(loaded.scores, spec.where)
    if spec.choose:
        scores = choose_best(scores, spec.pivot, spec.choose)
    table = pivot(scores, spec.pivot)
    compared = differences(table, spec.compare, options=spec.options, baseline=spec.baseline)
    optional = [
        tables.difference_table(compared, table, spec.compare) if compared else None,
        tables.cost_table(table),
        tables.certificate_table(scores),
        tables.skipped_table(loaded.skipped, loaded.unfinished),
    ]
    scored = score_table(table, spec.split, _published(spec, scores, table))
    all_tables = [scored, *(item for item in optional if item is not None)]
    return Report(spec, scores, table, all_tables, loaded.skipped, loaded.unfinished)


def _published(
    spec: ReportSpec, scores: Sequence[Score], table: PivotTable
) -> list[published.PublishedRow]:
    """Return published rows of the requested models and of those in the table."""
    columns = table.column_tasks()
    by_task = {*spec.pivot.columns} <= {"task", "metric"} and None not in columns
    if not by_task or "adapter" not in spec.pivot.rows:
        if spec.published:
            raise ValueError(
                "--published needs adapters in rows and tasks in columns: "
                "leave out --rows and --columns"
            )
        return []
    known = {str(score.settings["model"]) for score in scores} & published.models()
    names = dict.fromkeys([*spec.published, *sorted(known)])
    return published.rows(names, [column for column in columns if column])
