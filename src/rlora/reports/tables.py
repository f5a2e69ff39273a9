"""Comparisons as text: for the terminal, and as Markdown."""

from collections.abc import Sequence

from rich.table import Table

from rlora.reports.comparison import Comparison
from rlora.reports.statistics import Estimate


def cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Titles and rows; scores in percent, a mean with its deviation and n, a difference with its 95 % interval."""
    titles = [name.rpartition(".")[2] for name in comparison.keys]
    titles += [f"{option}: mean ± sd (n)" for option in comparison.options]
    several = len(comparison.options) > 1
    if several:
        titles.append(f"{comparison.options[-1]} − {comparison.options[0]} [95 %] (pairs)")
    rows = []
    for line in comparison.lines:
        row = [str(value) for value in line.setting] + [_mean(found) for found in line.estimates]
        rows.append([*row, _interval(line.difference)] if several else row)
    return titles, rows


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def terminal(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table for the terminal."""
    table = Table(*titles)
    for row in rows:
        table.add_row(*row)
    return table


def _mean(found: Estimate | None) -> str:
    if found is None:
        return ""
    spread = "" if found.n == 1 else f" ± {100 * found.sd:.1f}"
    return f"{100 * found.mean:.1f}{spread} ({found.n})"


def _interval(found: Estimate | None) -> str:
    if found is None:
        return ""
    interval = "" if found.n == 1 else f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return f"{100 * found.mean:+.1f}{interval} ({found.n})"
