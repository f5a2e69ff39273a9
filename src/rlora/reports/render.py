"""Output formats: tables as Markdown, and runs as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rlora.config.flatten import flatten
from rlora.reports.load import Score, unique_runs
from rlora.reports.tables import Table


def markdown(tables: Sequence[Table], heading: str = "##") -> str:
    """Return a Markdown section per table."""
    return "\n".join(_markdown_section(table, heading) for table in tables)


def _markdown_section(table: Table, heading: str) -> str:
    rule = ["---" if n < table.text_columns else "--:" for n in range(len(table.header))]
    texts = [[text.replace("*", r"\*") for text in row] for row in table.rows]
    rows = [marked(table, number, row, "**{}**") for number, row in enumerate(texts)]
    lines = [
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
        for line in (table.header, rule, *rows)
    ]
    notes = [f"{note}." for note in sentences(table)]
    return "\n".join([f"{heading} {table.title}", "", *lines, "", *notes, ""])


def marked(table: Table, number: int, cells: Sequence[str], bold: str) -> list[str]:
    """Return the cells of row `number`; `bold` is the markup of those in bold."""
    return [
        bold.format(text) if (number, column) in table.bold else text
        for column, text in enumerate(cells)
    ]


def sentences(table: Table) -> list[str]:
    """Return the notes of a table, each with a capital letter."""
    return [f"{note[:1].upper()}{note[1:]}" for note in table.notes]


def csv_text(scores: Iterable[Score]) -> str:
    """Return all runs as CSV, one per line: settings, unrounded scores, costs and certificate."""
    rows = [_csv_row(run) for run in unique_runs(scores)]
    stream = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _csv_row(run: Score) -> dict[str, Any]:
    record, certificate = run.record, run.record.certificate or {}
    names = {key: run.settings[key] for key in ("task", "model", "adapter", "regularizer", "seed")}
    training = flatten(asdict(record.training))
    training.pop("history", None)  # the scores of all epochs
    settings = {
        key: value
        for key, value in run.settings.items()
        if key not in (*names, "metric") and not key.endswith("_target_")
    }
    return {
        **names,
        **record.scores,
        **flatten(asdict(record.parameters), "parameters."),
        **{f"training.{key}": value for key, value in training.items()},
        "peak_memory_mib": record.environment.peak_memory_mib,
        "peak_device_memory_mib": record.environment.peak_device_memory_mib,
        "adapter_file_bytes": record.adapter_file_bytes,
        **{
            f"certificate.{key}": certificate[key]
            for key in ("bound", "risk", "kl", "rows")
            if key in certificate
        },
        "device": record.environment.device,
        "started": record.run.started,
        "config_hash": record.run.config_hash,
        "git_commit": record.environment.git_commit,
        "git_dirty": record.environment.git_dirty,
        "code": record.run.code,
        "data.fingerprint": record.data.get("fingerprint", ""),
        "directory": record.run.directory,
        **settings,
    }
