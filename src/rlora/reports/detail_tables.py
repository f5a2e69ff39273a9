"""The tables that follow the scores: differences, costs, certificates and skipped runs."""

import math
from collections.abc import Sequence
from statistics import fmean

from rlora.records.record import RunRecord
from rlora.reports.load import Score, SkippedRun, unique_runs
from rlora.reports.paired import SIGNIFICANCE, Difference
from rlora.reports.pivot import PivotTable
from rlora.reports.tables import (
    ADAPTER_PARAMETERS,
    HEAD_PARAMETERS,
    NONE,
    Table,
    first_texts,
    interval_name,
    interval_text,
    p_text,
    peak_memory,
    range_text,
    short_names,
    value_text,
)


def difference_table(compared: Sequence[Difference], table: PivotTable, key: str) -> Table | None:
    """Return the paired differences between the options of a key, with intervals and tests.

    None without a difference over two pairs, because one pair has neither an interval nor a test.
    """
    if all(item.estimate.n < 2 for item in compared):
        return None
    others = [name for name in table.spec.keys if name != key]
    header = [*short_names(others), "difference", "n", "mean", "95 % interval", "p", "p (Holm)"]
    rows = [
        [
            *map(value_text, item.group),
            f"{value_text(item.second)} − {value_text(item.first)}",
            str(item.estimate.n),
            item.format.text(item.estimate.mean, signed=True),
            interval_text(item.estimate, item.format, signed=True),
            p_text(item.p),
            p_text(item.p_holm),
        ]
        for item in compared
    ]
    last = len(header) - 1
    bold = {(number, last) for number, item in enumerate(compared) if item.is_significant}
    notes = _difference_notes(compared, table)
    title = f"Paired differences by {key}"
    return Table(title, header, rows, len(others) + 1, bold, notes, "differences")


def _difference_notes(compared: Sequence[Difference], table: PivotTable) -> list[str]:
    tests = sum(not math.isnan(item.p) for item in compared)
    pairs = ", ".join(short_names(table.spec.pairs))
    notes = [
        f"mean of the paired differences{_difference_unit(compared)}; "
        f"n pairs of runs with equal {pairs}",
    ]
    if tests:
        notes.append(
            f"{interval_name(table)} intervals, not adjusted; Student's paired t-test, two-sided; "
            f"p (Holm): Holm-adjusted over the {tests} tests of this table; "
            f"bold: below {SIGNIFICANCE}"
        )
    if any(item.estimate.n > 1 and not item.estimate.has_spread for item in compared):
        notes.append(
            f"{NONE}: the difference is equal in all pairs; without variance there is neither an "
            "interval nor a test"
        )
    if any(item.estimate.n == 1 for item in compared):
        notes.append(f"{NONE} at n = 1: a single pair has neither an interval nor a test")
    return notes


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
        ADAPTER_PARAMETERS,
        HEAD_PARAMETERS,
        "% of model",
        "file, KiB",
        "examples/s",
        "train, s",
        "peak, MiB",
    ]
    title = "Parameters, time and memory"
    costs = Table(title, header, [], len(table.spec.rows), name="costs")
    devices = set()
    for row in table.rows:
        records = [run.record for run in unique_runs(table.row_scores(row))]
        devices |= {record.environment.device for record in records}
        costs.rows.append(
            [
                *map(value_text, row),
                str(len(records)),
                range_text([record.parameters.adapter for record in records]),
                range_text([record.parameters.head for record in records]),
                f"{fmean(record.parameters.percent for record in records):.3g}",
                _file_text([record.adapter_file_bytes for record in records]),
                *_training_texts(records),
                _memory_text(table.row_scores(row)),
            ]
        )
    costs.notes.append(
        "% of model: the adapter's share of the backbone; "
        "file: adapter.safetensors, without the head"
    )
    costs.notes.append(
        "means over runs; times are comparable only on the same machine under the same load; "
        f"device: {first_texts(sorted(devices))}"
    )
    return costs


def _training_texts(records: Sequence[RunRecord]) -> list[str]:
    """Return mean examples per second and seconds of training; dashes if no run trained."""
    trained = [record.training for record in records if record.run.trained]
    if not trained:
        return [NONE, NONE]
    speed = fmean(training.examples_per_second for training in trained)
    return [f"{speed:,.0f}", f"{fmean(training.seconds for training in trained):,.1f}"]


def _file_text(sizes: Sequence[int | None]) -> str:
    """Return the mean size of the saved files in KiB; a dash if no run saved one."""
    saved = [size / 2**10 for size in sizes if size is not None]
    return f"{fmean(saved):,.1f}" if saved else NONE


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
        dev = next(iter(certificate["test"].values()), None)
        baseline = certificate["baseline"].get("bound")
        rows.append(
            [
                *(str(run.settings[key]) for key in ("task", "adapter", "seed")),
                f"{certificate['bound']:.4f}",
                f"{certificate['by_group']['bound']:.4f}",
                f"{certificate['risk']:.4f}",
                f"{certificate['kl']:,.1f}",
                f"{certificate['rows']:,}",
                NONE if baseline is None else f"{baseline:.4f}",
                NONE if dev is None else f"{dev['mean']:.4f}",
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
    return Table("PAC-Bayes certificates", header, rows, 2, notes=notes, name="certificates")


def skipped_table(skipped: Sequence[SkippedRun], unfinished: int) -> Table | None:
    """Return the skipped runs with the reasons; None if there are none."""
    rows = [[run.source, run.reason] for run in skipped]
    notes = [f"{unfinished} unfinished runs: still running, or killed"] if unfinished else []
    if not rows and not notes:
        return None
    title, header = f"Skipped runs: {len(rows)}", ["source", "reason"]
    return Table(title, header, rows, 2, notes=notes, name="skipped")
