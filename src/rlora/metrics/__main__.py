"""Score files: python -m rlora.metrics OUTPUTS... --references FILE."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rlora.metrics import nlg
from rlora.metrics.files import read_pairs


def main(arguments: list[str] | None = None) -> int:
    """Print a line of scores per file; 1 if a file could not be scored."""
    parser = argparse.ArgumentParser(prog="python -m rlora.metrics", description=__doc__)
    parser.add_argument(
        "outputs", nargs="+", type=Path, help="tables of sources and outputs, or one output a line"
    )
    parser.add_argument("--references", required=True, type=Path, help="a table, or plain text")
    given = parser.parse_args(arguments)
    table = Table("file", *nlg.NAMES)
    reasons: dict[str, None] = {}
    failed = False
    for path in given.outputs:
        try:
            found, sought = read_pairs(path, given.references)
            scores = nlg.score([row.text for row in found], sought)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        table.add_row(
            path.name,
            *(f"{scores.values[n]:.4f}" if n in scores.values else "-" for n in nlg.NAMES),
        )
        reasons.update(
            {f"{name} not computed: {why}": None for name, why in scores.missing.items()}
        )
    if table.rows:
        Console().print(table)
    for reason in reasons:
        print(reason)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
