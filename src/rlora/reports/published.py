"""Published scores, shown beside measured ones and never mixed with them."""

import csv
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources

FILE = "published.csv"
FACTS = ("adapter", "model", "trained", "source")


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    Attributes:
        adapter: As the paper calls it.
        model: By our name.
        trained: Numbers trained, as printed.
        source: Paper and table.
        scores: By task, in percent, as printed.
    """

    adapter: str
    model: str
    trained: str
    source: str
    scores: dict[str, str]


def models() -> set[str]:
    """Models of which scores are known."""
    return {row["model"] for row in _lines()}


def rows(of: Collection[str], tasks: Collection[str]) -> list[Published]:
    """Published rows of some models that hold one of these tasks.

    Raises:
        ValueError: nothing is known of a model.
    """
    if unknown := [model for model in of if model not in models()]:
        known = ", ".join(sorted(models()))
        raise ValueError(f"--published {unknown[0]}: no published scores of it here; there are some of {known}")
    made = []
    for line in _lines():
        found = {task: score for task, score in line.items() if task not in FACTS and score and task in tasks}
        if line["model"] in of and found:
            made.append(Published(**{name: line[name] for name in FACTS}, scores=found))
    return made


def _lines() -> list[dict[str, str]]:
    with resources.files(__package__).joinpath(FILE).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
