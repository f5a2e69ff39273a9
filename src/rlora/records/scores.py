"""Scores that are undefined, such as a correlation of constants: a record names them as missing."""

import math
from collections.abc import Mapping


def defined(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the finite scores; JSON has no nan and no infinity."""
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def undefined(scores: Mapping[str, float]) -> dict[str, str]:
    """Return the reason for each score that is not finite, by name."""
    return {
        name: f"it is {value} for these predictions and labels"
        for name, value in scores.items()
        if not math.isfinite(value)
    }


def not_finite(value: object, name: str = "") -> str | None:
    """Return the path of the first number that is not finite in nested values, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else name
    if isinstance(value, dict):
        parts = [(f"{name}.{key}" if name else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{name}[{number}]", inner) for number, inner in enumerate(value)]
    else:
        return None
    found = (not_finite(inner, inner_name) for inner_name, inner in parts)
    return next((path for path in found if path is not None), None)
