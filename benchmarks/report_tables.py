"""Markdown tables and their cells."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def seconds(value: float) -> str:
    """Format seconds with three digits in s, ms or µs."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def ratio(value: float) -> str:
    """Format a ratio with two decimals."""
    return f"{value:.2f}"


def mebibytes(value: float) -> str:
    """Format bytes in MiB."""
    return f"{value / 2**20:,.1f}"
