"""The tables of a report as text, independent of the output format."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from rlora.reports.load import Score, SkippedRun, unique_runs
from rlora.reports.metric_format import MetricFormat
from rlora.reports.paired import Difference
from rlora.reports.pivot import Group, PivotTable
from rlora.reports.statistics import Estimate

SMALLEST_P = 0.001


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
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    text_columns: int
    bold: set[tuple[int, int]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def difference_table(compared: Sequence[Difference], table: PivotTable, key: str) -> Table:
    """Return the paired differences between the options of a key, with intervals and tests."""
    others = [name for name in table.spec.keys if name != key]
    header = [*short_names(others), "difference", "n", "mean", "95 % interval", "p", "p (Holm)"]
    rows = [
        [
            *map(str, item.group),
            f"{item.second} − {item.first}",
            str(item.estimate.n),
            item.format.text(item.estimate.mean, signed=True),
            interval_text(item.estimate, item.format, signed=True),
            p_text(item.p),
            p_text(item.p_holm),
        ]
        for item in compared
    ]
    bold = {(number, len(header) - 1) for number, item in enumerate(compared) if item.p_holm < 0.05}
    tests = sum(not math.isnan(item.p) for item in compared)
    notes = [
        f"mean of the paired differences{_difference_unit(compared)}; "
        f"n pairs of runs with equal {', '.join(short_names(table.spec.pairs))}",
        f"{interval_name(table)} intervals, not adjusted; Student's paired t-test, two-sided; "
        f"p (Holm): Holm-adjusted over the {tests} tests of this table; bold: below 0.05",
    ]
    return Table(f"Paired differences by {key}", header, rows, len(others) + 1, bold, notes)


def _difference_unit(compared: Sequence[Difference]) -> str:
    percent = {item.format.percent for item in compared}
    if percent == {False}:
        return ""
    return " in percentage points" + ("" if percent == {True} else ", or in units of the metric")


def cost_table(table: PivotTable) -> Table:
    """Return parameters, file size, time and memory of each row, as means over its runs."""
    header = [
        *short_names(table.spec.rows),
        "runs",
        "params (adapter)",
        "params (head)",
        "% of backbone",
        "file, KiB",
        "examples/s",
        "train, s",
        "peak, MiB",
    ]
    costs = Table("Parameters, time and memory", header, [], len(table.spec.rows))
    devices = set()
    for row in table.rows:
        records = [run.record for run in unique_runs(table.row_scores(row))]
        devices |= {record.environment.device for record in records}
        costs.rows.append(
            [
                *map(str, row),
                str(len(records)),
                range_text([record.parameters.adapter for record in records]),
                range_text([record.parameters.head for record in records]),
                f"{fmean(record.parameters.percent for record in records):.3g}",
                f"{fmean((record.adapter_file_bytes or 0) / 2**10 for record in records):,.1f}",
                f"{fmean(record.training.examples_per_second for record in records):,.0f}",
                f"{fmean(record.training.seconds for record in records):,.1f}",
                _memory_text(table.row_scores(row)),
            ]
        )
    costs.notes.append(
        "params: trainable parameters; % of backbone: of the adapter; file: adapter.safetensors"
    )
    costs.notes.append(
        "means over runs; times are comparable only on the same machine under the same load; "
        f"device: {first_texts(sorted(devices))}"
    )
    return costs


def _memory_text(scores: Sequence[Score]) -> str:
    runs = unique_runs(scores)
    on_device = any(run.record.environment.peak_device_memory_mib is not None for run in runs)
    return f"{fmean(peak_memory(run) for run in runs):,.0f}" + (" (device)" if on_device else "")


def certificate_table(scores: Sequence[Score]) -> Table | None:
    """Return PAC-Bayes certificates with the errors on dev; None if no run has a certificate."""
    rows = []
    for run in unique_runs(scores):
        certificate = run.record.certificate
        if not certificate:
            continue
        dev = next(iter(certificate["test"].values()), {"mean": math.nan})
        baseline = certificate["baseline"].get("bound")
        rows.append(
            [
                *(str(run.settings[key]) for key in ("task", "adapter", "seed")),
                f"{certificate['bound']:.4f}",
                f"{certificate['by_group']['bound']:.4f}",
                f"{certificate['risk']:.4f}",
                f"{certificate['kl']:,.1f}",
                f"{certificate['rows']:,}",
                "" if baseline is None else f"{baseline:.4f}",
                f"{dev['mean']:.4f}",
            ]
        )
    if not rows:
        return None
    header = [
        "task",
        "adapter",
        "seed",
        "bound",
        "bound (one row per group)",
        "posterior risk",
        "KL",
        "rows",
        "held-out baseline",
        "dev error of the mean",
    ]
    notes = [
        "bounds hold for the distribution of the certified rows; "
        "the error on dev may be larger if dev is distributed differently"
    ]
    return Table("PAC-Bayes certificates", header, rows, 2, notes=notes)


def skipped_table(skipped: Sequence[SkippedRun], unfinished: int) -> Table | None:
    """Return the skipped runs with the reasons; None if there are none."""
    rows = [[run.source, run.reason] for run in skipped]
    notes = [f"{unfinished} unfinished runs: still running, or killed"] if unfinished else []
    if not rows and not notes:
        return None
    return Table(f"Skipped runs: {len(rows)}", ["source", "reason"], rows, 2, notes=notes)


def interval_text(mean: Estimate, scale: MetricFormat, *, signed: bool = False) -> str:
    """Return the confidence interval of a mean; "" for a single value."""
    if mean.n == 1:
        return ""
    return f"[{scale.text(mean.low, signed=signed)}, {scale.text(mean.high, signed=signed)}]"


def p_text(p: float) -> str:
    """Return a p value with three digits; "" for nan."""
    if math.isnan(p):
        return ""
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


def group_label(group: Group) -> str:
    """Return the label of a row or column; "all" for the group of no keys."""
    return ", ".join(str(value) for value in group if value != "") or "all"


def range_text(values: Sequence[int]) -> str:
    """Return a number, or a range if the values differ."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def first_texts(texts: Sequence[str], most: int = 6) -> str:
    """Return a list of texts, cut after `most` of them."""
    more = f"; and {len(texts) - most} more" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more
