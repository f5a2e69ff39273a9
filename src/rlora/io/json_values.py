"""Values of JSON files and of JSON lines: strict, with errors that name file and line."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rlora.io.rows import open_input, read_text, split_lines

DEEPEST = 100  # containers in each other: whatever walks through a value may recurse
_SURROGATE_OR_NUL = re.compile("[\ud800-\udfff\0]")
_ESCAPED = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")

Located = tuple[str, Any]


def json_lines(stream: Iterable[bytes], name: str) -> Iterator[Located]:
    """Yield location and value of each line that is not blank; see `parse_json`."""
    for number, line in split_lines(stream, name):  # JSON has no CR inside a text
        if line.strip():
            location = f"{name}, line {number}"
            yield location, parse_json(line, location)


def read_json_lines(path: Path) -> list[Located]:
    """Return location and value of each line of a file that is not blank."""
    with open_input(path) as stream:
        return list(json_lines(stream, str(path)))


def read_json(path: Path) -> Any:
    """Return the value of a JSON file; see `parse_json`."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, location: str) -> Any:
    """Return a JSON value.

    Raises:
        ValueError: The text is not JSON or nested too deeply, a key occurs twice, a number is not
            finite, or a text has a lone surrogate or a NUL, which tokenizers and files cannot hold.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{location} is not valid JSON: {error}") from error
    if _is_deep(value):
        raise ValueError(f"{location} is nested more than {DEEPEST} levels deep")
    if _ESCAPED.search(text) and (path := _wrong_text(value)) is not None:
        raise ValueError(
            f"{location}: its text{path and f' under {path}'} has a lone surrogate or a NUL, which "
            "is no character; correct the text"
        )
    return value


def _is_deep(value: Any) -> bool:
    """Return whether containers are nested more than `DEEPEST` levels deep."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is not finite")
    return value


def _wrong_text(value: Any, path: str = "") -> str | None:
    """Return the keys to the first text with a lone surrogate or a NUL, or None."""
    if isinstance(value, str):
        return path if _SURROGATE_OR_NUL.search(value) else None
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        if any(_SURROGATE_OR_NUL.search(key) for key in value):
            return path
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value, start=1)
    for key, item in inner:
        if (found := _wrong_text(item, f"{path}.{key}".removeprefix("."))) is not None:
            return found
    return None
