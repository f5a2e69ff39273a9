"""A report: runs read, laid out and compared, ready to be written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlora.reports import published, tables
from rlora.reports.load import Measured, Problem, Reading
from rlora.reports.paired import differences
from rlora.reports.pivot import Grid, Layout, choose, lay_out, where
from rlora.reports.tables import Sheet


@dataclass(frozen=True)
class Question:
    """What is asked of the runs.

    Attributes:
        layout: Rows, columns, pairs.
        compare: The key whose options are compared.
        options: Their order.
        baseline: The option the others are compared with; None: each with each.
        where: Conditions by key.
        choose: Keys whose values are chosen on validation.
        split: Whose scores.
        published: Models whose published scores are shown beside.
        title: Of the report.
    """

    layout: Layout = field(default_factory=Layout)
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
    """The answer.

    Attributes:
        question: What was asked.
        runs: Those that count.
        grid: The same, laid out.
        sheets: Tables.
        problems: What was left out.
        unfinished: Number of unfinished runs.
    """

    question: Question
    runs: list[Measured]
    grid: Grid
    sheets: list[Sheet]
    problems: list[Problem]
    unfinished: int


def report(reading: Reading, question: Question) -> Report:
    """Answer a question.

    Raises:
        ValueError: what was asked does not fit the runs.
    """
    runs = where(reading.runs, question.where)
    if question.choose:
        runs = choose(runs, question.layout, question.choose)
    grid = lay_out(runs, question.layout)
    shown = [tables.scores(grid, question.split, _published(question, runs, grid))]
    compared = differences(
        grid, question.compare, options=question.options, baseline=question.baseline
    )
    if compared:
        shown.append(tables.comparisons(compared, grid, question.compare))
    shown.append(tables.costs(grid))
    more = [tables.certificates(runs), tables.left_out(reading.problems, reading.unfinished)]
    shown += [sheet for sheet in more if sheet]
    return Report(question, runs, grid, shown, reading.problems, reading.unfinished)


def _published(
    question: Question, runs: Sequence[Measured], grid: Grid
) -> list[published.Published]:
    layout, places = grid.layout, grid.places()
    if (
        not {*layout.columns} <= {"task", "metric"}
        or "adapter" not in layout.rows
        or None in places
    ):
        if question.published:
            raise ValueError(
                "--published needs adapters in rows and tasks in columns: leave out --rows and --columns"
            )
        return []
    models = [
        *question.published,
        *sorted({str(run.facts["model"]) for run in runs} & published.models()),
    ]
    return published.rows(dict.fromkeys(models), [place for place in places if place])
