"""What the figures show, as plain rows: drawn by `plots` for files and by `charts` for the page."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from rlora.reports.grid import Cell, Grid, Key
from rlora.reports.sheets import PERCENT, peak_memory
from rlora.reports.tidy import Measured

Rows = list[dict[str, Any]]


def curves(grid: Grid) -> Rows:
    """Validation scores in percent by epoch: mean, lowest and highest of the runs that reached it, and their number."""
    rows = []
    for (row, column), cell in _in_order(grid):
        for epoch, scores in sorted(_by_epoch(cell).items()):
            percent = [PERCENT * score for score in scores]
            spread = {"mean": fmean(percent), "low": min(percent), "high": max(percent), "n": len(percent)}
            rows.append({"row": label(row), "column": label(column), "epoch": epoch, **spread})
    return rows if len(rows) > len(grid.cells) else []  # one point is no curve


def _by_epoch(cell: Cell) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for run in cell.runs.values():
        for entry in run.record.training.history:
            score = entry.get(run.record.monitor)
            if score is not None:
                found.setdefault(int(entry["epoch"]) + 1, []).append(score)
    return found


def sizes(grid: Grid) -> Rows:
    """Mean scores in percent against trained parameters, head included; front: nothing smaller scores as well."""
    rows = []
    for column in grid.columns:
        points = []
        for row in grid.rows:
            found = grid.estimate(row, column)
            if found is not None:
                runs = grid.cells[row, column].runs.values()
                trained = fmean(run.record.parameters.adapter + run.record.parameters.head for run in runs)
                spread = {"score": PERCENT * found.mean, "sd": PERCENT * found.sd if found.n > 1 else 0.0, "n": found.n}
                points.append({"row": label(row), "column": label(column), "trained": trained, **spread})
        sign = 1 if grid.larger_is_better[column] else -1
        rows += [{**point, "front": _is_on_front(point, points, sign)} for point in points]
    return rows


def _is_on_front(point: dict[str, Any], points: Sequence[dict[str, Any]], sign: int) -> bool:
    score = sign * point["score"]
    for other in points:
        gain, saved = sign * other["score"] - score, point["trained"] - other["trained"]
        if gain >= 0 and saved >= 0 and (gain > 0 or saved > 0):
            return False
    return True


def costs(grid: Grid) -> Rows:
    """Seconds of training and peak MiB of each row and column, means over runs."""
    return [
        {
            "row": label(row),
            "column": label(column),
            "seconds": fmean(run.record.training.seconds for run in cell.runs.values()),
            "memory": fmean(peak_memory(run) for run in cell.runs.values()),
        }
        for (row, column), cell in _in_order(grid)
    ]


def certificates(runs: Iterable[Measured]) -> Rows:
    """Bounds, risks and the rivals' bounds against the error of the posterior's mean on dev, in percent."""
    rows = []
    for run in runs:
        found = run.record.certificate
        if not found or not found["test"]:
            continue
        where = {"run": f"{run.facts['adapter']}, seed {run.facts['seed']}", "task": str(run.facts["task"])}
        error = PERCENT * next(iter(found["test"].values()))["mean"]
        shown = {"bound": found["bound"], "posterior's risk": found["risk"], "rival": found["rival"].get("bound")}
        rows += [
            {**where, "error": error, "what": what, "percent": PERCENT * value}
            for what, value in shown.items()
            if value is not None
        ]
    return rows


def _in_order(grid: Grid) -> list[tuple[tuple[Key, Key], Cell]]:
    places = ((row, column) for column in grid.columns for row in grid.rows)
    return [(place, grid.cells[place]) for place in places if place in grid.cells]


def label(key: Key) -> str:
    """A row's or column's values in a few words."""
    return ", ".join(str(value) for value in key if value != "") or "all"
