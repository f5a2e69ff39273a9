"""Options compared with each other on the same samples or seeds: means, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlora.reports.statistics import Estimate, estimate, paired
from rlora.reports.tidy import Measured


@dataclass(frozen=True)
class Line:
    """One setting.

    Attributes:
        setting: Values of the keys that tell settings apart.
        estimates: By option: over the runs that have it; None where there are none.
        difference: Last option minus first over the pairs both have; None where they share none.
    """

    setting: tuple[Any, ...]
    estimates: list[Estimate | None]
    difference: Estimate | None


@dataclass(frozen=True)
class Comparison:
    """Lines of a table.

    Attributes:
        keys: What tells settings apart.
        key: What is compared.
        options: Its values, in order.
        lines: Sorted by setting.
    """

    keys: list[str]
    key: str
    options: list[Any]
    lines: list[Line]


def compare(
    runs: Sequence[Measured], *, keys: Sequence[str], key: str, pairs: Sequence[str], options: Sequence[Any] = ()
) -> Comparison:
    """Compare the options of one key in each setting.

    Args:
        runs: All of one comparison.
        keys: Dotted keys that tell settings apart, such as task and adapter.
        key: The dotted key whose options are compared.
        pairs: Dotted keys whose values pair the runs, such as seed.
        options: Order of the options; empty: as they sort.

    Raises:
        ValueError: a key that no run has, a run without a score, or several runs of one setting, option and pair.
    """
    _check_known(runs, [*keys, key, *pairs])
    cells: dict[tuple[Any, ...], dict[Any, dict[object, float]]] = {}
    for run in runs:
        setting, (option,), pair = (_values(run, names) for names in (keys, [key], pairs))
        if run.score is None:
            raise ValueError(
                f"the run in {run.record.run.directory} was not scored on this split: leave it out, or see --split"
            )
        cell = cells.setdefault(setting, {}).setdefault(option, {})
        if pair in cell:
            raise ValueError(
                f"several runs have {_told(keys, setting)}, {key}={option} and {_told(pairs, pair)}: name the keys "
                "that tell them apart, among rows or pairs"
            )
        cell[pair] = run.score
    order = list(options) or sorted({option for cell in cells.values() for option in cell}, key=str)
    lines = [
        Line(
            setting,
            [estimate(list(cell[option].values())) if option in cell else None for option in order],
            paired(cell.get(order[0], {}), cell.get(order[-1], {})) if len(order) > 1 else None,
        )
        for setting, cell in sorted(cells.items(), key=lambda item: [_rank(value) for value in item[0]])
    ]
    return Comparison(list(keys), key, order, lines)


def chosen(runs: Sequence[Measured], conditions: Mapping[str, str]) -> list[Measured]:
    """The runs whose keys have these values, as one would type them.

    Raises:
        ValueError: a key that no run has, or no run is left.
    """
    _check_known(runs, list(conditions))
    left = [run for run in runs if all(str(run.facts.get(key)) == value for key, value in conditions.items())]
    if not left:
        told = ", ".join(f"{key}={value}" for key, value in conditions.items())
        raise ValueError(f"none of {len(runs)} runs has {told}")
    return left


def _check_known(runs: Sequence[Measured], names: Sequence[str]) -> None:
    for name in names:
        if not any(name in run.facts for run in runs):
            raise ValueError(f"no run has the key {name}: see a run's config.yaml for the keys there are")


def _values(run: Measured, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(run.facts.get(name, "") for name in names)  # another option of the group may lack the key


def _told(names: Sequence[str], values: Sequence[Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))


def _rank(value: Any) -> tuple[bool, Any]:
    number = isinstance(value, int | float)
    return (not number, value if number else str(value))
