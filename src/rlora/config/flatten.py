"""Plain config trees: dotted keys, and moved paths."""

from typing import Any


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return leaves by dotted key, as nested dicts would clash with sweep parameters in loggers."""
    if isinstance(config, dict) and config:
        return {
            key: value
            for name, inner in config.items()
            for key, value in flatten(inner, f"{prefix}{name}.").items()
        }
    return {prefix.removesuffix("."): config}


def move_paths(value: Any, old: str, new: str) -> Any:
    """Return a plain config with every path in the folder `old` moved to the folder `new`."""
    if isinstance(value, dict):
        return {key: move_paths(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [move_paths(item, old, new) for item in value]
    inside = isinstance(value, str) and (value == old or value.startswith(old + "/"))
    return new + value[len(old) :] if inside else value
