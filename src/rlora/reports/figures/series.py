"""What the figures show, as plain rows: drawn by `plots` for files and by `charts` for the page."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from rlora.reports.load import Measured, once
from rlora.reports.metrics import PERCENT, shown
from rlora.reports.pivot import Cell, Grid, Key
from rlora.reports.tables import peak_memory

Rows = list[dict[str, Any]]


def curves(grid: Grid) -> Rows:
    """Validation scores by epoch: mean, lowest and highest of the runs that reached it, and their number."""
    rows: Rows = []
    for place, cell in _each_once(grid):
        monitor = next(iter(cell.runs.values())).record.headline("validation")
        for epoch, scores in sorted(_by_epoch(cell).items()):
            scaled = [shown(monitor).factor * score for score in scores]
            spread = {
                "mean": fmean(scaled),
                "low": min(scaled),
                "high": max(scaled),
                "n": len(scaled),
            }
            rows.append({**place, "unit": unit(monitor), "epoch": epoch, **spread})
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
    """Mean scores against trained parameters, head included; front: nothing smaller scores as well."""
    rows = []
    for column in grid.columns:
        points = []
        for row in grid.rows:
            found = grid.estimate(row, column)
            if found is not None:
                cell = grid.cells[row, column]
                runs, factor = list(cell.runs.values()), cell.shown.factor
                trained = fmean(
                    run.record.parameters.adapter + run.record.parameters.head for run in runs
                )
                spread = {
                    "score": factor * found.mean,
                    "sd": factor * found.sd if found.n > 1 else 0.0,
                    "n": found.n,
                }
                place = {
                    "row": label(row),
                    "column": label(column),
                    "unit": unit(str(runs[0].facts["metric"])),
                }
                points.append({**place, "trained": trained, **spread})
        sign = 1 if grid.shown(column).larger_is_better else -1
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
            **place,
            "seconds": fmean(run.record.training.seconds for run in cell.runs.values()),
            "memory": fmean(peak_memory(run) for run in cell.runs.values()),
        }
        for place, cell in _each_once(grid)
    ]


def certificates(runs: Iterable[Measured]) -> Rows:
    """Bounds, risks and the rivals' bounds against the error of the posterior's mean on dev, in percent."""
    rows = []
    for run in once(runs):
        found = run.record.certificate
        if not found or not found["test"]:
            continue
        where = {
            "run": f"{run.facts['adapter']}, seed {run.facts['seed']}",
            "task": str(run.facts["task"]),
        }
        error = PERCENT.factor * next(iter(found["test"].values()))["mean"]
        shown = {
            "bound": found["bound"],
            "posterior's risk": found["risk"],
            "rival": found["rival"].get("bound"),
        }
        rows += [
            {**where, "error": error, "what": what, "percent": PERCENT.factor * value}
            for what, value in shown.items()
            if value is not None
        ]
    return rows


def _each_once(grid: Grid) -> list[tuple[dict[str, str], Cell]]:
    """The cells by their labels, of those that differ only in the metric the first."""
    found: dict[tuple[str, str], Cell] = {}
    for (row, column), cell in grid.in_order():
        place = _without_metric(grid.layout.rows, row), _without_metric(grid.layout.columns, column)
        found.setdefault(place, cell)
    return [({"row": row, "column": column}, cell) for (row, column), cell in found.items()]


def _without_metric(names: Sequence[str], values: Key) -> str:
    return label(
        tuple(value for name, value in zip(names, values, strict=True) if name != "metric")
    )


def unit(metric: str) -> str:
    """What an axis says of a metric's numbers."""
    return "%" if shown(metric).percent else metric


def label(key: Key) -> str:
    """A row's or column's values in a few words."""
    return ", ".join(str(value) for value in key if value != "") or "all"
