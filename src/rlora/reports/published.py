"""Scores from papers, shown below the measured ones and never mixed with them."""

import csv
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources

FILE = "published.csv"
INFO_COLUMNS = ("adapter", "model", "trained", "source")  # the other columns are "task/metric"
TaskMetric = tuple[str, str]


@dataclass(frozen=True)
class PublishedRow:
    """A row of a table in a paper.

    Attributes:
        adapter: Adapter, as the paper calls it.
        model: Model, as a file in conf/model is called.
        trained: Number of trainable parameters, as printed.
        source: Paper and table.
        scores: Scores by task and metric, as printed.
    """

    adapter: str
    model: str
    trained: str
    source: str
    scores: dict[TaskMetric, str]


def models() -> set[str]:
    """Return the models with published scores."""
    return {row["model"] for row in _csv_rows()}


def rows(names: Collection[str], columns: Collection[TaskMetric]) -> list[PublishedRow]:
    """Return the published rows of models with a score for at least one task and metric.

    Args:
        names: Names of models.
        columns: Tasks and metrics.

    Raises:
        ValueError: A model has no published scores.
    """
    if unknown := [name for name in names if name not in models()]:
        known = ", ".join(sorted(models()))
        raise ValueError(f"--published {unknown[0]} is invalid: expected one of {known}")
    published = []
    for row in _csv_rows():
        scores = {
            _task_and_metric(name): value
            for name, value in row.items()
            if name not in INFO_COLUMNS and value
        }
        relevant = {column: value for column, value in scores.items() if column in columns}
        if row["model"] in names and relevant:
            info = {name: row[name] for name in INFO_COLUMNS}
            published.append(PublishedRow(**info, scores=relevant))
    return published


def _task_and_metric(name: str) -> TaskMetric:
    task, _, metric = name.partition("/")
    return task, metric


def _csv_rows() -> list[dict[str, str]]:
    with resources.files(__package__).joinpath(FILE).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
