"""Tables of finished runs: python -m rlora.reports outputs/multiruns/... --compare regularizer=none,pac_bayes."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rlora.reports.comparison import chosen, compare
from rlora.reports.tables import cells, markdown, terminal
from rlora.reports.tidy import load


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m rlora.reports", description=__doc__)
    made.add_argument("paths", nargs="+", type=Path, help="folders of runs, or files with a record a line")
    made.add_argument(
        "--rows", default="task", help="keys that tell settings apart, such as task,task.shots (%(default)s)"
    )
    made.add_argument("--compare", default="adapter", help="a key, or key=option,option in their order (%(default)s)")
    made.add_argument("--where", default="", help="only runs with these values, such as regularizer=none,seed=0")
    made.add_argument("--pairs", default="seed", help="keys that pair the runs (%(default)s)")
    made.add_argument("--split", default="test", choices=["test", "validation"], help="(%(default)s)")
    made.add_argument("--markdown", type=Path, help="write a Markdown table to this file")
    return made


def main(words: Sequence[str] | None = None) -> None:
    """Read, compare, print; a wrong word ends in one sentence and exit status 1."""
    asked = parser().parse_args(words)
    key, _, options = asked.compare.partition("=")
    try:
        comparison = compare(
            chosen(load(asked.paths, asked.split), _conditions(asked.where)),
            keys=_split(asked.rows),
            key=key,
            pairs=_split(asked.pairs),
            options=_split(options),
        )
        titles, rows = cells(comparison)
        if asked.markdown:
            asked.markdown.write_text(markdown(titles, rows))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    Console().print(terminal(titles, rows))


def _conditions(words: str) -> dict[str, str]:
    if wrong := [word for word in _split(words) if "=" not in word]:
        raise ValueError(f"--where {wrong[0]}: conditions are key=value, with commas between them")
    return dict(word.split("=", 1) for word in _split(words))


def _split(words: str) -> list[str]:
    return [word for word in words.split(",") if word]


if __name__ == "__main__":
    main()
