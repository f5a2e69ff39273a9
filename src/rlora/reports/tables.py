"""Sheets: what tables say, as text, whatever they are written as."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlora.reports.load import Measured, Problem, once
from rlora.reports.metrics import PERCENT, Shown
from rlora.reports.paired import Difference
from rlora.reports.pivot import Grid, Key
from rlora.reports.published import Published
from rlora.reports.statistics import Estimate

SMALLEST_P = 0.001


@dataclass
class Sheet:
    """A table as text.

    Attributes:
        title: Its caption.
        header: Of each column.
        rows: As many texts each.
        words: How many columns, from the left, are words and not numbers.
        bold: Places (row, column) of the best.
        notes: Sentences below it.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    words: int
    bold: set[tuple[int, int]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def scores(grid: Grid, split: str, published: Sequence[Published] = ()) -> Sheet:
    """Means and deviations; the best of a column in bold; means over columns and mean ranks where whole."""
    sizes = {len(cell.runs) for cell in grid.cells.values()}
    even = len(sizes) == 1 and len(grid.cells) == len(grid.rows) * len(grid.columns)
    ranks, several = grid.ranks(), len(grid.columns) > 1 and _has_mean(grid)
    words = len(grid.layout.rows)
    header = [*_names(grid.layout.rows), "trained", *(_title(column) for column in grid.columns)]
    header += [*(["mean"] if several else []), *(["rank"] if ranks else [])]
    sheet = Sheet(f"Scores on the {split} split", header, [], words)
    best = {column: grid.best(column) for column in grid.columns}
    for number, row in enumerate(grid.rows):
        found = [grid.estimate(row, column) for column in grid.columns]
        texts = [
            *map(str, row),
            trained(_runs_of(grid, row)),
            *(_cell_text(grid, row, column, show_n=not even) for column in grid.columns),
        ]
        if several:
            means = [each.mean for each in found if each]
            texts.append(PERCENT.text(_mean(means)) if len(means) == len(found) else "")
        sheet.rows.append([*texts, *([f"{ranks[row]:.2f}"] if ranks else [])])
        sheet.bold |= {
            (number, words + 1 + i) for i, column in enumerate(grid.columns) if row in best[column]
        }
    sheet.notes.append(_what_is_shown(grid, sizes, even))
    if several:
        sheet.notes.append(f"mean: over all {len(grid.columns)} columns, where a row has them all")
    if ranks:
        sheet.notes.append("rank: 1 is best, mean over the columns that all rows have")
    if not even:
        sheet.notes.append("incomplete: " + _some(grid.uneven()))
    _add_published(sheet, grid, published)
    return sheet


def _has_mean(grid: Grid) -> bool:
    """Whether a mean over columns says something: they are tasks, all scored in percent."""
    keys = grid.layout
    tasks = "task" in keys.columns and "metric" not in keys.keys
    return tasks and all(cell.shown == PERCENT for cell in grid.cells.values())


def _cell_text(grid: Grid, row: Key, column: Key, *, show_n: bool) -> str:
    found = grid.estimate(row, column)
    return (
        mean_text(found, grid.cells[row, column].shown, spread=grid.layout.spread, show_n=show_n)
        if found
        else ""
    )


def _add_published(sheet: Sheet, grid: Grid, published: Sequence[Published]) -> None:
    sources: list[str] = []
    for item in published:
        if item.source not in sources:
            sources.append(item.source)
        label = f"{item.adapter}, {item.model} [{sources.index(item.source) + 1}]"
        values = [item.scores.get(place, "") if place else "" for place in grid.places()]
        texts = [label, *[""] * (sheet.words - 1), item.trained, *values]
        sheet.rows.append(texts + [""] * (len(sheet.header) - len(texts)))
    sheet.notes += [
        f"[{number}] published, not measured here: {source}"
        for number, source in enumerate(sources, 1)
    ]


def _what_is_shown(grid: Grid, sizes: set[int], even: bool) -> str:
    metrics: dict[str, list[str]] = {}
    for column in grid.columns:
        found = {
            str(run.facts["metric"])
            for (_, other), cell in grid.cells.items()
            if other == column
            for run in cell.runs.values()
        }
        metrics.setdefault(" or ".join(sorted(found)), []).append(_title(column))
    told = "; ".join(
        metric if len(metrics) == 1 else f"{metric}: {', '.join(of)}"
        for metric, of in metrics.items()
    )
    if "metric" in grid.layout.keys:
        told = ""
    pairs = ", ".join(_names(grid.layout.pairs))
    n = (
        f"n = {sizes.pop()} runs ({pairs}) in every cell"
        if even
        else f"the number of runs ({pairs}) in brackets"
    )
    spread = (
        "± standard deviation"
        if grid.layout.spread == "sd"
        else f"[{_interval_name(grid)} 95 % interval]"
    )
    return f"mean {spread}{_units(grid)}; {n}" + (f"; {told}" if told else "")


def _units(grid: Grid) -> str:
    shown = {
        str(run.facts["metric"]): cell.shown
        for cell in grid.cells.values()
        for run in cell.runs.values()
    }
    plain = [metric for metric, how in shown.items() if not how.percent]
    return (
        ""
        if len(plain) == len(shown)
        else f" in percent, {' and '.join(plain)} not"
        if plain
        else " in percent"
    )


def comparisons(found: Sequence[Difference], grid: Grid, key: str) -> Sheet:
    """Paired differences with their intervals and tests."""
    others = [name for name in (*grid.layout.rows, *grid.layout.columns) if name != key]
    interval = _interval_name(grid)
    header = [*_names(others), "difference", "pairs", "mean", "95 % interval", "p", "p (Holm)"]
    rows = [
        [
            *map(str, item.setting),
            f"{item.second} − {item.first}",
            str(item.estimate.n),
            item.shown.text(item.estimate.mean, signed=True),
            interval_text(item.estimate, item.shown),
            p_text(item.p),
            p_text(item.p_holm),
        ]
        for item in found
    ]
    bold = {(number, len(header) - 1) for number, item in enumerate(found) if item.p_holm < 0.05}
    tests = sum(not math.isnan(item.p) for item in found)
    notes = [
        f"{_differences_in(found)}over runs paired by {', '.join(_names(grid.layout.pairs))}; {interval} intervals, "
        f"each for itself; Student's paired test; Holm's adjustment over the {tests} tests of this table"
    ]
    return Sheet(
        f"Differences between options of {key}", header, rows, len(others) + 1, bold, notes
    )


def _differences_in(found: Sequence[Difference]) -> str:
    percent = {item.shown.percent for item in found}
    if percent == {False}:
        return ""
    return "percentage points " if percent == {True} else "percentage points, or the metric's own, "


def costs(grid: Grid) -> Sheet:
    """What each row trained, stored and used: means over all of its runs."""
    header = [*_names(grid.layout.rows), "runs", "adapter", "head", "% of backbone", "file, KiB"]
    header += ["examples/s", "training, s", "peak, MiB"]
    sheet = Sheet("Parameters, time and memory", header, [], len(grid.layout.rows))
    for row in grid.rows:
        runs = _runs_of(grid, row)
        on_gpu = any(run.record.environment.peak_device_memory_mib is not None for run in runs)
        sheet.rows.append(
            [
                *map(str, row),
                str(len(runs)),
                _span([run.record.parameters.adapter for run in runs]),
                _span([run.record.parameters.head for run in runs]),
                f"{_mean([run.record.parameters.percent for run in runs]):.3g}",
                f"{_mean([(run.record.adapter_file_bytes or 0) / 2**10 for run in runs]):,.1f}",
                f"{_mean([run.record.training.examples_per_second for run in runs]):,.0f}",
                f"{_mean([run.record.training.seconds for run in runs]):,.1f}",
                f"{_mean([peak_memory(run) for run in runs]):,.0f}"
                + (" (device)" if on_gpu else ""),
            ]
        )
    devices = sorted(
        {run.record.environment.device for row in grid.rows for run in _runs_of(grid, row)}
    )
    sheet.notes.append(
        f"means; time compares only between runs of the same machine and load; here: {_some(devices)}"
    )
    return sheet


def certificates(runs: Sequence[Measured]) -> Sheet | None:
    """PAC-Bayes certificates beside the errors on dev; None where no run has one."""
    header = [
        "task",
        "adapter",
        "seed",
        "bound",
        "one row a group",
        "risk",
        "KL",
        "rows",
        "rival",
        "error of the mean",
    ]
    rows = []
    for run in once(runs):
        found = run.record.certificate
        if not found:
            continue
        dev = next(iter(found["test"].values()), {"mean": math.nan})
        rival = found["rival"].get("bound")
        rows.append(
            [
                str(run.facts["task"]),
                str(run.facts["adapter"]),
                str(run.facts["seed"]),
                f"{found['bound']:.4f}",
                f"{found['by_group']['bound']:.4f}",
                f"{found['risk']:.4f}",
                f"{found['kl']:,.1f}",
                f"{found['rows']:,}",
                "" if rival is None else f"{rival:.4f}",
                f"{dev['mean']:.4f}",
            ]
        )
    notes = [
        "bounds hold for rows like the certified ones; dev, if of another distribution, may lie above"
    ]
    return Sheet("PAC-Bayes certificates", header, rows, 2, notes=notes) if rows else None


def left_out(problems: Sequence[Problem], unfinished: int) -> Sheet | None:
    """What was left out; None where nothing was."""
    rows = [[problem.place, problem.reason] for problem in problems]
    notes = [f"{unfinished} runs are unfinished: they run, or were ended"] if unfinished else []
    return (
        Sheet(f"Left out: {len(rows)}", ["where", "why"], rows, 2, notes=notes)
        if rows or notes
        else None
    )


def mean_text(found: Estimate, shown: Shown, *, spread: str, show_n: bool) -> str:
    """Mean with its deviation or interval, with n on request."""
    text = shown.text(found.mean)
    if found.n > 1 and spread == "sd":
        text += f" ± {shown.text(found.sd)}"
    elif found.n > 1:
        text += f" [{shown.text(found.low)}, {shown.text(found.high)}]"
    return text + (f" ({found.n})" if show_n else "")


def _interval_name(grid: Grid) -> str:
    return "Student's" if grid.layout.interval == "t" else "bootstrap (BCa)"


def interval_text(found: Estimate, shown: Shown) -> str:
    """An interval of a difference."""
    return (
        ""
        if found.n == 1
        else f"[{shown.text(found.low, signed=True)}, {shown.text(found.high, signed=True)}]"
    )


def p_text(value: float) -> str:
    """A p value to three digits."""
    if math.isnan(value):
        return ""
    return f"< {SMALLEST_P}" if value < SMALLEST_P else f"{value:.3f}"


def trained(runs: Sequence[Measured]) -> str:
    """What trains but for the head, which all share."""
    return _span([run.record.parameters.adapter for run in runs])


def peak_memory(run: Measured) -> float:
    """In MiB: of the device where there is one, else of the process."""
    device = run.record.environment.peak_device_memory_mib
    return run.record.environment.peak_memory_mib if device is None else device


def _runs_of(grid: Grid, row: Key) -> list[Measured]:
    return once(
        run for (other, _), cell in grid.cells.items() if other == row for run in cell.runs.values()
    )


def _names(keys: Sequence[str]) -> list[str]:
    return [name.rpartition(".")[2] for name in keys]


def _title(column: Key) -> str:
    return ", ".join(map(str, column)) or "all"


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _some(texts: Sequence[str], most: int = 6) -> str:
    return "; ".join(texts[:most]) + (
        f"; and {len(texts) - most} more" if len(texts) > most else ""
    )
