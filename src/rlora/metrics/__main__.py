"""Score files of generated texts: python -m rlora.metrics OUTPUTS... --references FILE."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rlora.io.command import run_command
from rlora.metrics import nlg
from rlora.metrics.files import read_pairs

EXAMPLES = """\
examples:
  python -m rlora.metrics outputs/runs/e2e/texts/test.tsv --references testset_w_refs.csv
  python -m rlora.metrics a.txt b.txt --references references.txt
"""


def main(arguments: list[str] | None = None) -> int:
    """Print a row of scores per file; return 1 if a file could not be scored."""
    parser = argparse.ArgumentParser(
        prog="python -m rlora.metrics",
        description="Print BLEU, NIST, METEOR, ROUGE_L and CIDEr as in the E2E challenge.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "outputs",
        nargs="+",
        type=Path,
        metavar="OUTPUTS",
        help="a table of sources and outputs (.tsv, .csv), or a text file with one output per line",
    )
    parser.add_argument(
        "--references",
        required=True,
        type=Path,
        metavar="FILE",
        help="a table of sources and references, or text with an empty line between segments",
    )
    options = parser.parse_args(arguments)
    table = Table("file", *nlg.NAMES)
    reasons: dict[str, None] = {}  # a dict keeps the order
    failed = False
    for path in options.outputs:
        try:
            rows, references = read_pairs(path, options.references)
            scores = nlg.score([row.text for row in rows], references)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        values = {name: f"{value:.4f}" for name, value in scores.values.items()}
        table.add_row(path.name, *(values.get(name, "-") for name in nlg.NAMES))
        for name, reason in scores.missing.items():
            reasons[f"{name} not computed: {reason}"] = None
    if table.rows:
        Console().print(table)
    for reason in reasons:
        print(reason)
    return int(failed)


if __name__ == "__main__":
    run_command(main)
