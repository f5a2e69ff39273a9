"""Runs that only hyperparameters distinguish: chosen on validation, or shown row by row."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from rlora.reports.differing import differing_keys
from rlora.reports.load import Score
from rlora.reports.metric_format import metric_format
from rlora.reports.pivot import DEFAULT_PAIRS, Group, PivotSpec, group_of, sort_key
from rlora.reports.select import choose_best
from rlora.reports.tables import Table, group_label, short_names, value_text

MOST_KEYS = 8  # runs that differ in more keys are no search
SEARCH = "choices.hparams"  # the config group of searches


def searched_keys(scores: Sequence[Score], spec: PivotSpec) -> list[str]:
    """Return the keys that distinguish runs of one row, column and pair, such as `optimizer.lr`.

    Empty if no runs share row, column and pair, or if they differ in too many keys for a search.
    """
    keys = (*spec.keys, *(spec.pairs or DEFAULT_PAIRS))
    groups: dict[Group, list[Score]] = {}
    for score in scores:
        groups.setdefault((*group_of(score, keys), score.settings["metric"]), []).append(score)
    found = {
        key: None
        for group in groups.values()
        if len(group) > 1
        for key in differing_keys(group, keys)
    }
    return list(found) if len(found) <= MOST_KEYS else []


def is_search(scores: Sequence[Score]) -> bool:
    """Return whether all runs are trials of searches, with validation scores to choose by."""
    return all(score.settings.get(SEARCH) and score.validation is not None for score in scores)


def lay_out(
    scores: list[Score], spec: PivotSpec, choose: Sequence[str]
) -> tuple[list[Score], PivotSpec, list[str], Table | None]:
    """Return scores and layout in which each run has its place, and what was done for it.

    Trials of a search are chosen by validation, as `choose` asks for. Other runs that differ in a
    few keys get rows by these keys.

    Args:
        scores: Scores of runs.
        spec: The layout that was asked for.
        choose: Keys to choose; empty means to look at the runs.

    Returns:
        Scores, layout, sentences for the report, and the table of all tried values, if values were
        chosen.
    """
    keys = list(choose) or searched_keys(scores, spec)
    if not keys:
        return scores, spec, [], None
    if choose or is_search(scores):
        kept = choose_best(scores, spec, keys)
        note = f"{', '.join(keys)}: the values with the best validation score, see the next table"
        return kept, spec, [note], choice_table(scores, kept, spec, keys)
    note = (
        f"runs differ in {', '.join(keys)}, which therefore distinguish rows; "
        f"--choose {','.join(keys)} keeps the best values on validation"
    )
    return scores, replace(spec, rows=(*spec.rows, *keys)), [note], None


def choice_table(
    scores: Sequence[Score], kept: Sequence[Score], spec: PivotSpec, keys: Sequence[str]
) -> Table:
    """Return the mean validation score of each tried value, those of the chosen ones in bold."""
    rows = sorted(
        {group_of(score, (*spec.rows, *keys)) for score in scores},
        key=lambda group: [sort_key(value) for value in group],
    )
    columns = sorted(
        {group_of(score, spec.columns) for score in scores},
        key=lambda group: [sort_key(value) for value in group],
    )
    cells: dict[tuple[Group, Group], list[Score]] = {}
    for score in scores:
        place = group_of(score, (*spec.rows, *keys)), group_of(score, spec.columns)
        cells.setdefault(place, []).append(score)
    chosen = {id(score) for score in kept}
    names = short_names((*spec.rows, *keys))
    header = [*names, *map(group_label, columns)]
    table = Table("Choices on the validation split", header, [], len(names), name="choices")
    for number, row in enumerate(rows):
        found = [cells.get((row, column), []) for column in columns]
        is_chosen = [any(id(score) in chosen for score in runs) for runs in found]
        texts = [
            _validation_text(runs) + (" *" if marked else "")
            for runs, marked in zip(found, is_chosen, strict=True)
        ]
        table.rows.append([*map(value_text, row), *texts])
        table.bold |= {
            (number, len(names) + index) for index, marked in enumerate(is_chosen) if marked
        }
    monitors = dict.fromkeys(score.record.headline("validation") for score in scores)
    table.notes.append(
        f"mean validation score ({', '.join(monitors)}), number of runs in brackets; *: chosen"
    )
    return table


def _validation_text(runs: Sequence[Score]) -> str:
    """Return the mean of the monitored score and the number of runs; "" without runs."""
    monitor = runs[0].record.headline("validation") if runs else ""
    names = [f"validation/{run.record.headline('validation')}" for run in runs]
    found = [run.record.scores.get(name) for run, name in zip(runs, names, strict=True)]
    values = [value for value in found if value is not None]
    if not values:
        return ""
    return f"{metric_format(monitor).text(fmean(values))} ({len(values)})"
