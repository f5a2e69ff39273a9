"""Checks of a saved config: its format, and that it builds only what a file in conf/ names."""

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CONF = Path(__file__).resolve().parents[3] / "conf"
CONFIG_FORMAT = 2  # 1, without the key, is rlora 0.1
_TARGET = re.compile(r"\b_target_:\s*[\"']?([\w.]+)")


def saved_config(config: dict[str, Any], choices: dict[str, str]) -> dict[str, Any]:
    """Return a resolved config as runs, adapters and checkpoints save it.

    It names no directory of start weights (`adapter.path`): what is saved with it holds the weights
    trained from them, and the directory may be gone when the run is loaded.

    Args:
        config: Plain and resolved.
        choices: Config group to option.
    """
    saved = {"format": CONFIG_FORMAT, "choices": choices, **config}
    adapter = config.get("adapter", {})
    return {**saved, "adapter": {**adapter, "path": None}} if adapter.get("path") else saved


def check_saved_config(config: Any, place: str, sections: Sequence[str]) -> dict[str, Any]:
    """Return a config that was read from a file, if this version can build it.

    Args:
        config: As read.
        place: The file, for messages.
        sections: The top-level keys that are going to be built.

    Raises:
        ValueError: it is not the config of a run, has another format, or names an unknown target.
    """
    if not isinstance(config, dict) or "choices" not in config:
        raise ValueError(
            f"{place} holds no config of a run: model, task and adapter cannot be restored from it"
        )
    # The format comes first: a config of 0.1 names modules that have moved since.
    if "format" not in config:
        raise ValueError(
            f"{place} was written by rlora 0.1, which this version does not read: train the run "
            "again, or load it with rlora 0.1"
        )
    if config["format"] != CONFIG_FORMAT:
        raise ValueError(
            f"{place} has config format {config['format']}: this version reads {CONFIG_FORMAT}"
        )
    check_targets({section: config.get(section) for section in sections}, place)
    return config


@functools.cache
def known_targets() -> frozenset[str]:
    """Return every `_target_` that a file in conf/ names."""
    return frozenset(
        name
        for file in CONF.rglob("*.yaml")
        for name in _TARGET.findall(file.read_text(encoding="utf-8"))
    )


def check_targets(config: Any, place: str) -> None:
    """Refuse a config that builds anything else, as a downloaded file could name any function.

    Raises:
        ValueError: a `_target_` is in no file of conf/.
    """
    if unknown := [name for name in _targets(config) if name not in known_targets()]:
        raise ValueError(
            f"{place} builds {unknown[0]}, which no file in conf/ names: it is not run; if you "
            "trust it, add a YAML file that names it"
        )


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "_target_" in value:
            yield str(value["_target_"])
        for inner in value.values():
            yield from _targets(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _targets(inner)
