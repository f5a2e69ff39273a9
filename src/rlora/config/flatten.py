"""Plain config trees: dotted keys, and moved paths."""

from typing import Any


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys to leaves, for loggers whose nested dicts would clash with sweep parameters."""
    if isinstance(config, dict) and config:
        return {
            key: value
            for name, inner in config.items()
            for key, value in flatten(inner, f"{prefix}{name}.").items()
        }
    return {prefix.removesuffix("."): config}


def move_paths(value: Any, here: str, there: str) -> Any:
    """A plain config with every path below one folder moved to another."""
    if isinstance(value, dict):
        return {key: move_paths(item, here, there) for key, item in value.items()}
    if isinstance(value, list):
        return [move_paths(item, here, there) for item in value]
    inside = isinstance(value, str) and (value == here or value.startswith(here + "/"))
    return there + value[len(here) :] if inside else value
