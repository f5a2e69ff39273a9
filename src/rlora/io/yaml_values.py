"""Values of YAML text: plain values only, of limited depth and size."""

from collections.abc import Iterator
from typing import Any

import yaml

from rlora.io.json_values import DEEPEST

MOST_NODES = 200_000  # with each alias counted as what it stands for
# the C parser of libyaml is about 10 times faster, but is not in every build of PyYAML
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_yaml(text: str, place: str) -> Any:
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
