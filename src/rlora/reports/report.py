"""A report: the pivot table, the comparisons and all tables, ready for output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rlora.reports import detail_tables, published
from rlora.reports.extra_rows import ExtraRow, majority_row, paper_rows, reference_rows
from rlora.reports.load import LoadResult, Score, SkippedRun
from rlora.reports.paired import differences
from rlora.reports.pivot import PivotSpec, PivotTable, pivot
from rlora.reports.provenance import provenance_notes
from rlora.reports.score_table import score_table
from rlora.reports.search import lay_out
from rlora.reports.select import filter_scores
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
        choose: Keys whose values are chosen on validation, see `choose_best`; empty means those
            of a search, see `lay_out`.
        published: Models whose scores in papers are added.
        title: Title.
    """

    pivot: PivotSpec = field(default_factory=PivotSpec)
    compare: str = "adapter"
    options: Sequence[str] = ()
    baseline: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    choose: Sequence[str] = ()
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


def make_report(
    loaded: LoadResult, spec: ReportSpec, reference: LoadResult | None = None
) -> Report:
    """Return the report of loaded runs.

    Args:
        loaded: The runs.
        spec: The content of the report.
        reference: Published runs with separate rows, see `reference_rows`.

    Raises:
        ValueError: The spec does not fit the runs.
    """
    candidates = filter_scores(loaded.scores, spec.where)
    scores, layout, notes, choices = lay_out(candidates, spec.pivot, spec.choose)
    spec = replace(spec, pivot=layout)
    table = pivot(scores, layout)
    extra, sources = _extra_rows(spec, scores, table, reference)
    scored = score_table(table, loaded.split, extra)
    scored.notes += [*notes, *sources, *provenance_notes(scores)]
    compared = differences(table, spec.compare, options=spec.options, baseline=spec.baseline)
    optional = [
        choices,
        detail_tables.difference_table(compared, table, spec.compare),
        detail_tables.cost_table(table),
        detail_tables.certificate_table(scores),
        detail_tables.skipped_table(loaded.skipped, loaded.unfinished),
    ]
    all_tables = [scored, *(item for item in optional if item is not None)]
    return Report(spec, scores, table, all_tables, loaded.skipped, loaded.unfinished)


def _extra_rows(
    spec: ReportSpec, scores: Sequence[Score], table: PivotTable, reference: LoadResult | None
) -> tuple[list[ExtraRow], list[str]]:
    """Return the rows below the measured ones, and the notes on their sources."""
    majority = majority_row(table)
    rows = [majority] if majority else []
    notes = (
        ["majority class: the most frequent label of the split, predicted for all rows"]
        if majority
        else []
    )
    found = [paper_rows(_published(spec, scores, table), table)]
    if reference is not None:
        found.insert(0, reference_rows(reference, scores, spec.where, table))
    for more, sources in found:
        rows += more
        notes += sources
    return rows, notes


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
