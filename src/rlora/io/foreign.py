"""Small files from elsewhere, such as configs and manifests, read within limits.

Anybody can have written them. What is read here never runs code, never blocks, and takes less than
a second to refuse.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rlora.io.json_values import DEEPEST, parse_json

LARGEST = 2**24  # bytes; the config of a run has about 10,000
MOST_NODES = 200_000  # of YAML, with each alias counted as what it stands for
# the C parser of libyaml is about 10 times faster, but is not in every build of PyYAML
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_small_file(path: Path, limit: int = LARGEST) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file. Opening it does not block, as a pipe would.
        limit: Largest size, in bytes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no regular file, is larger than `limit`, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read: {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} cannot be read: it is not a regular file")
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path} cannot be read: it has more than {limit:,} bytes")
    return content


def read_foreign_text(path: Path) -> str:
    """Return the text of a small file in UTF-8; see `read_small_file`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or is not UTF-8.
    """
    try:
        return read_small_file(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: byte {error.start + 1} is not UTF-8") from error


def parse_foreign_json(text: str, place: str) -> Any:
    """Return the value of JSON text.

    Args:
        text: JSON.
        place: Where it came from, for messages.

    Raises:
        ValueError: It is not valid (see `parse_json`), or nested too deeply.
    """
    return parse_json(text, place)


def parse_foreign_yaml(text: str, place: str) -> Any:
    """Return the value of YAML text with plain values only.

    Args:
        text: One YAML document.
        place: Where it came from, for messages.

    Raises:
        ValueError: It is not valid, has tags of Python objects, is nested too deeply, or its
            aliases stand for too much.
    """
    try:
        _check_size(yaml.parse(text, Loader=_LOADER), place)
        return yaml.load(text, Loader=_LOADER)
    # ValueError: a date or a number that Python does not have; TypeError: a key that is a mapping
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        if isinstance(error, ValueError) and str(error).startswith(place):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"{place} is not valid YAML: {reason}") from error


def _check_size(events: Iterator[yaml.Event], place: str) -> None:
    """Check depth and size before anything is built.

    An alias costs nothing to build, but whoever walks through the value pays for each of them.

    Raises:
        ValueError: The document is too deep or too large.
    """
    sizes: dict[str, int] = {}  # of each anchor that is complete
    depths: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []  # anchor, and nodes before it
    nodes = 0
    heights = [0]  # per open container: the height of what it holds so far
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:  # none, or that of an open container
                raise ValueError(f"{place} is not valid YAML: an alias stands for its own parent")
            nodes += sizes[event.anchor]
            heights[-1] = max(heights[-1], depths[event.anchor])
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, nodes))
            heights.append(0)
            nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            height = heights.pop() + 1
            heights[-1] = max(heights[-1], height)
            if anchor is not None:
                sizes[anchor], depths[anchor] = nodes - before, height
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor is not None:
                sizes[event.anchor], depths[event.anchor] = 1, 0
        if len(opened) + heights[-1] > DEEPEST:
            raise ValueError(f"{place} is nested more than {DEEPEST} levels deep")
        if nodes > MOST_NODES:
            raise ValueError(f"{place} holds more than {MOST_NODES:,} values")
