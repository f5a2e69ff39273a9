"""Selection of runs: by conditions on their settings, or by the best validation score."""

from collections.abc import Mapping, Sequence

from rlora.reports.load import Score
from rlora.reports.pivot import Group, PivotSpec, check_keys, group_of


def filter_scores(scores: Sequence[Score], conditions: Mapping[str, str]) -> list[Score]:
    """Return the scores whose settings meet all conditions.

    Args:
        scores: Scores of runs.
        conditions: By key, one value or several: "lora" or "lora|rlora".

    Raises:
        ValueError: No run has a key, or no run meets the conditions.
    """
    check_keys(scores, list(conditions))
    kept = matching_scores(scores, conditions)
    if not kept:
        text = ", ".join(f"{key}={value}" for key, value in conditions.items())
        raise ValueError(f"none of {len(scores)} runs has {text}")
    return kept


def matching_scores(scores: Sequence[Score], conditions: Mapping[str, str]) -> list[Score]:
    """Return the scores whose settings meet all conditions, see `filter_scores`."""
    accepted = {key: value.split("|") for key, value in conditions.items()}
    return [
        score
        for score in scores
        if all(str(score.settings.get(key)) in values for key, values in accepted.items())
    ]


def choose_best(scores: Sequence[Score], spec: PivotSpec, keys: Sequence[str]) -> list[Score]:
    """Return, for each cell of the table, the runs with the best mean validation score.

    The runs of a cell compete in groups that share the values of `keys`. A group with fewer runs
    than the largest one is dropped, so that a single lucky run does not win.

    Raises:
        ValueError: No run has a key, or a run has no validation score.
    """
    check_keys(scores, [*spec.rows, *spec.columns, *keys])
    cells: dict[tuple[Group, Group], dict[Group, list[Score]]] = {}
    for score in scores:
        if score.validation is None:
            raise ValueError(
                f"--choose needs validation scores, but the run in {score.record.run.directory} "
                "has none"
            )
        cell = cells.setdefault((group_of(score, spec.rows), group_of(score, spec.columns)), {})
        cell.setdefault(group_of(score, keys), []).append(score)
    kept: list[Score] = []
    for options in cells.values():
        size = max(map(len, options.values()))
        full = [group for group in options.values() if len(group) == size]
        kept += max(full, key=lambda group: sum(score.validation or 0.0 for score in group))
    return kept
