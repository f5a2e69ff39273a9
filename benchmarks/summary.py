"""The summary on the console."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.report_tables import ratio
from benchmarks.results import Document
from benchmarks.variants import LIMIT


def print_summary(
    document: Document, measured: Sequence[str], path: Path, console: Console
) -> None:
    """Print the status of each part, and the step times relative to the limit."""
    parts = Table(title=f"Measured on {document['device']}")
    for column in ("part", "status", "seconds"):
        parts.add_column(column)
    for name in measured:
        section = document["sections"][name]
        status = section.get("error", section["status"])
        parts.add_row(name, status, f"{section['seconds']:.0f}")
    console.print(parts)
    steps = document["sections"].get("steps", {}).get("result")
    if "steps" in measured and steps:
        console.print(_steps(steps))
    console.print(f"results: {path}, {path.stem}.md, {path.stem}.png", highlight=False)


def _steps(result: Mapping[str, Any]) -> Table:
    table = Table(title=f"Training step / {LIMIT}, and MiB saved for backward")
    table.add_column("adapter")
    for label in result:
        table.add_column(label, justify="right")
    for name in next(iter(result.values()))["variants"]:
        table.add_row(name, *_cells(result, name))
    return table


def _cells(result: Mapping[str, Any], name: str) -> Iterator[str]:
    for selection in result.values():
        facts = selection["variants"][name]
        yield f"{ratio(facts['ratio'])}   {facts['saved_bytes'] / 2**20:,.0f} MiB"
