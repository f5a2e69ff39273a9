"""Cells and tables of Markdown."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def seconds(value: float) -> str:
    """Seconds in a fitting unit, three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def ratio(value: float) -> str:
    """A ratio with two decimals."""
    return f"{value:.2f}"


def mebibytes(value: float) -> str:
    """Bytes in MiB."""
    return f"{value / 2**20:,.1f}"
