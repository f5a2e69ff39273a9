"""Tables as text, independent of the output format, and the texts of their cells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlora.reports.load import Score
from rlora.reports.metric_format import MetricFormat
from rlora.reports.pivot import Group, PivotTable
from rlora.reports.statistics import Estimate

SMALLEST_P = 0.001
NONE = "–"  # in place of a number that does not exist; a note says why
ADAPTER_PARAMETERS = "trainable parameters (adapter)"
HEAD_PARAMETERS = "trainable parameters (head)"


@dataclass
class Table:
    """A table as text; `render` turns it into terminal output, Markdown or LaTeX.

    Attributes:
        title: Title.
        header: Title of each column.
        rows: Text of each cell, row by row.
        text_columns: Number of columns, from the left, that hold text and not numbers.
        bold: Cells (row, column) in bold, such as the best of a column.
        notes: Sentences below the table, without a full stop.
        name: One word that identifies the table, for labels.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    text_columns: int
    bold: set[tuple[int, int]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    name: str = "table"


def spread_text(table: PivotTable, row: Group, column: Group, *, show_n: bool) -> str:
    """Return the mean of a cell with its spread; "" for an empty cell."""
    mean = table.estimate(row, column)
    if mean is None:
        return ""
    scale = table.cells[row, column].format
    text = scale.text(mean.mean)
    if mean.n > 1 and table.spec.spread == "sd":
        text += f" ± {scale.text(mean.sd)}"
    elif mean.n > 1:
        text += f" {interval_text(mean, scale)}"
    return text + (f" ({mean.n})" if show_n else "")


def interval_text(mean: Estimate, scale: MetricFormat, *, signed: bool = False) -> str:
    """Return the confidence interval of a mean; a dash for values without spread."""
    if not mean.has_spread:
        return NONE
    return f"[{scale.text(mean.low, signed=signed)}, {scale.text(mean.high, signed=signed)}]"


def p_text(p: float) -> str:
    """Return a p value with three digits; a dash for nan."""
    if math.isnan(p):
        return NONE
    return f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.3f}"


def interval_name(table: PivotTable) -> str:
    """Return the name of the confidence intervals of a table."""
    return "Student's" if table.spec.interval == "t" else "bootstrap (BCa)"


def peak_memory(run: Score) -> float:
    """Return the peak memory of a run in MiB: of the device if it has one, else of the process."""
    device = run.record.environment.peak_device_memory_mib
    return run.record.environment.peak_memory_mib if device is None else device


def short_names(keys: Sequence[str]) -> list[str]:
    """Return the last parts of dotted keys."""
    return [key.rpartition(".")[2] for key in keys]


def value_text(value: Any) -> str:
    """Return the value of a key as text; four digits of a float tell values apart."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def group_label(group: Group) -> str:
    """Return the label of a row or column; "all" for the group of no keys."""
    return ", ".join(value_text(value) for value in group if value != "") or "all"


def column_label(table: PivotTable, column: Group) -> str:
    """Return the label of a column with its metric, such as "sst2 (accuracy)".

    Without the metric if the rows name it, or if the column has several.
    """
    keys, metrics = table.spec.columns, table.column_metrics(column)
    if "metric" in table.spec.rows or len(metrics) > 1:
        return group_label(column)
    others = [value for key, value in zip(keys, column, strict=True) if key != "metric"]
    if "metric" in keys and not any(value != "" for value in others):
        return metrics[0]
    return f"{group_label(tuple(others))} ({metrics[0]})"


def range_text(values: Sequence[int]) -> str:
    """Return a number, or a range if the values differ."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def first_texts(texts: Sequence[str], most: int = 6) -> str:
    """Return a list of texts, cut after `most` of them."""
    more = f"; and {len(texts) - most} more" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more
