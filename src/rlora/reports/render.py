"""Output formats: tables for the terminal, Markdown and LaTeX, and runs as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import rich.table
from rich import box

from rlora.config.flatten import flatten
from rlora.reports.load import Score, unique_runs
from rlora.reports.tables import Table

LATEX = {
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "<": "$<$",
}


def terminal(table: Table, width: int) -> rich.table.Table:
    """Return a table for rich.

    If the table is too wide for the terminal, cells lose the spaces around "±".

    Args:
        table: Table as text.
        width: Width of the terminal in characters.
    """
    rows = [table.header, *table.rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) > width:
        rows = [[text.replace(" ± ", "±") for text in row] for row in rows]
    grid = rich.table.Table(
        title=table.title,
        title_justify="left",
        title_style="bold",
        caption="\n".join(table.notes),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for number, name in enumerate(table.header):
        is_text = number < table.text_columns
        grid.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for number, row in enumerate(rows[1:]):
        grid.add_row(
            *_marked(table, number, [text.replace("[", r"\[") for text in row], "[bold]{}[/]")
        )
    return grid


def markdown(tables: Sequence[Table], heading: str = "##") -> str:
    """Return a Markdown section per table."""
    return "\n".join(_markdown_section(table, heading) for table in tables)


def _markdown_section(table: Table, heading: str) -> str:
    rule = ["---" if n < table.text_columns else "--:" for n in range(len(table.header))]
    rows = [_marked(table, number, row, "**{}**") for number, row in enumerate(table.rows)]
    lines = [
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
        for line in (table.header, rule, *rows)
    ]
    notes = [f"{note}." for note in _sentences(table)]
    return "\n".join([f"{heading} {table.title}", "", *lines, "", *notes, ""])


def latex(tables: Sequence[Table]) -> str:
    """Return a LaTeX `table` environment per table; the document needs the package booktabs."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(map(_latex_table, tables))


def _latex_table(table: Table) -> str:
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    rows = [
        _marked(table, number, [escape_latex(text) for text in row], r"\textbf{{{}}}")
        for number, row in enumerate(table.rows)
    ]
    caption = ". ".join([table.title, *_sentences(table)]) + "."
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(escape_latex, table.header)) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """Return text with the special characters of LaTeX escaped."""
    return "".join(LATEX.get(character, character) for character in text)


def _marked(table: Table, number: int, cells: Sequence[str], bold: str) -> list[str]:
    """Return the cells of row `number`; `bold` is the markup of those in bold."""
    return [
        bold.format(text) if (number, column) in table.bold else text
        for column, text in enumerate(cells)
    ]


def _sentences(table: Table) -> list[str]:
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
        "directory": record.run.directory,
        **settings,
    }
