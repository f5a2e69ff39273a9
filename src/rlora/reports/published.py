"""Published scores, shown beside measured ones and never mixed with them."""

import csv
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources

FILE = "published.csv"
FACTS = ("adapter", "model", "trained", "source")
Place = tuple[str, str]  # task and metric


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    Attributes:
        adapter: As the paper calls it.
        model: By our name.
        trained: Numbers trained, as printed.
        source: Paper and table.
        scores: By task and metric, as printed.
    """

    adapter: str
    model: str
    trained: str
    source: str
    scores: dict[Place, str]


def models() -> set[str]:
    """Models of which scores are known."""
    return {row["model"] for row in _lines()}


def rows(of: Collection[str], places: Collection[Place]) -> list[Published]:
    """Published rows of some models that hold a metric of a task asked for.

    Raises:
        ValueError: nothing is known of a model.
    """
    if unknown := [model for model in of if model not in models()]:
        known = ", ".join(sorted(models()))
        raise ValueError(
            f"--published {unknown[0]}: no published scores of it here; there are some of {known}"
        )
    made = []
    for line in _lines():
        scores = {
            _place(name): score for name, score in line.items() if name not in FACTS and score
        }
        found = {place: score for place, score in scores.items() if place in places}
        if line["model"] in of and found:
            made.append(Published(**{name: line[name] for name in FACTS}, scores=found))
    return made


def _place(name: str) -> Place:
    task, _, metric = name.partition("/")
    return task, metric


def _lines() -> list[dict[str, str]]:
    with resources.files(__package__).joinpath(FILE).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
