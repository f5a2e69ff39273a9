"""What a config that came with a file may build: what this installation's own configs name, and nothing else."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONF = Path(__file__).resolve().parents[3] / "conf"
_TARGET = re.compile(r"\b_target_:\s*[\"']?([\w.]+)")


@functools.cache
def known_targets() -> frozenset[str]:
    """Every `_target_` of the configs beside train.py."""
    return frozenset(
        name
        for file in CONF.rglob("*.yaml")
        for name in _TARGET.findall(file.read_text(encoding="utf-8"))
    )


def check_targets(config: Any, place: str) -> None:
    """Refuse a config that would build anything else: a file from elsewhere could name any function of Python.

    Raises:
        ValueError: it names what no config here names.
    """
    if unknown := [name for name in _targets(config) if name not in known_targets()]:
        raise ValueError(
            f"{place} asks for {unknown[0]}, which no file in conf/ names: it is not run; if it is yours, add its YAML"
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
