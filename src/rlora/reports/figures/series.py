"""The data of the figures as plain rows, shared by `matplotlib_plots` and `vega_charts`.

Scores are scaled for display, see `MetricFormat`.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from rlora.reports.load import Score, unique_runs
from rlora.reports.metric_format import PERCENT, MetricFormat, metric_format, metric_unit
from rlora.reports.pivot import Cell, Group, PivotTable
from rlora.reports.statistics import Estimate, estimate
from rlora.reports.tables import column_label, group_label, peak_memory

Rows = list[dict[str, Any]]


def learning_curves(table: PivotTable) -> Rows:
    """Return the validation score of each epoch: mean, lowest and highest over n runs.

    Empty if no cell has more than one epoch, because a single point is no curve.
    """
    rows: Rows = []
    for labels, cell in _cells_by_label(table):
        monitor = next(iter(cell.scores.values())).record.headline("validation")
        factor = metric_format(monitor).factor
        for epoch, scores in sorted(_scores_by_epoch(cell).items()):
            scaled = [factor * score for score in scores]
            rows.append(
                {
                    **labels,
                    "metric": monitor,
                    "unit": metric_unit(monitor),
                    "epoch": epoch,
                    "mean": fmean(scaled),
                    "low": min(scaled),
                    "high": max(scaled),
                    "n": len(scaled),
                }
            )
    return rows if len(rows) > len(table.cells) else []


def axis_title(rows: Rows) -> str:
    """Return the metrics of learning curves with their units, such as "accuracy, %"."""
    titles = {
        row["metric"] if row["metric"] == row["unit"] else f"{row['metric']}, {row['unit']}"
        for row in rows
    }
    return " or ".join(sorted(titles))


def _scores_by_epoch(cell: Cell) -> dict[int, list[float]]:
    scores: dict[int, list[float]] = {}
    for run in cell.scores.values():
        for entry in run.record.training.history:
            score = entry.get(run.record.monitor)
            if score is not None and math.isfinite(score):
                scores.setdefault(int(entry["epoch"]) + 1, []).append(score)
    return scores


def scores_by_size(table: PivotTable) -> Rows:
    """Return mean scores against the trainable parameters of the adapter, without the head.

    Empty if no adapter has trainable parameters. `pareto` marks the rows of a column that no other
    row beats in both.
    """
    rows: Rows = []
    for column in table.columns:
        points = []
        for row in table.rows_with(column):
            cell = table.cells[row, column]
            runs = list(cell.scores.values())
            mean = estimate(list(cell.values().values()))
            labels = {"row": group_label(row), "column": column_label(table, column)}
            unit = metric_unit(str(runs[0].settings["metric"]))
            points.append(_size_point(labels, unit, runs, mean, cell.format))
        rows += _with_pareto(points, table.column_format(column))
    return rows if any(row["parameters"] > 0 for row in rows) else []


def mean_scores_by_size(table: PivotTable) -> Rows:
    """Return the mean over all columns against trainable parameters.

    The spread is that of the mean over columns, from one pair of runs (such as a seed) to the next.
    Empty for a single column, for columns that are not tasks in percent, and if a row lacks a cell.
    """
    several_tasks = len(table.columns) > 1 and table.spec.columns == ("task",)
    percent = all(cell.format == PERCENT for cell in table.cells.values())
    if not several_tasks or not percent or len(table.complete_columns()) < len(table.columns):
        return []
    title, points = f"mean of {len(table.columns)} tasks", []
    for row in table.rows:
        cells = [table.cells[row, column].values() for column in table.columns]
        shared = [pair for pair in cells[0] if all(pair in cell for cell in cells)]
        if not shared:
            return []
        mean = estimate([fmean(cell[pair] for cell in cells) for pair in shared])
        labels = {"row": group_label(row), "column": title}
        points.append(_size_point(labels, "%", table.row_scores(row), mean, PERCENT))
    return _with_pareto(points, PERCENT)


def _size_point(
    labels: dict[str, str], unit: str, runs: Sequence[Score], mean: Estimate, scale: MetricFormat
) -> dict[str, Any]:
    parameters = [run.record.parameters for run in runs]
    return {
        **labels,
        "unit": unit,
        "parameters": fmean(each.adapter for each in parameters),
        "score": scale.factor * mean.mean,
        "sd": scale.factor * mean.sd if mean.n > 1 else 0.0,
        "n": mean.n,
    }


def _with_pareto(points: Rows, scale: MetricFormat) -> Rows:
    """Mark the points that no other point beats; scores that show the same digits are equal."""
    sign = 1 if scale.larger_is_better else -1
    shown = [(point["parameters"], sign * round(point["score"], scale.digits)) for point in points]
    return [
        {**point, "pareto": not any(_beats(other, own) for other in shown)}
        for point, own in zip(points, shown, strict=True)
    ]


def _beats(other: tuple[float, float], own: tuple[float, float]) -> bool:
    """Return whether (parameters, score) is at least as good in both, and better in one."""
    return other != own and other[0] <= own[0] and other[1] >= own[1]


def costs(table: PivotTable) -> Rows:
    """Return training time in seconds and peak memory in MiB, as means over the runs of a cell."""
    return [
        {
            **labels,
            "seconds": fmean(run.record.training.seconds for run in cell.scores.values()),
            "memory": fmean(peak_memory(run) for run in cell.scores.values()),
        }
        for labels, cell in _cells_by_label(table)
    ]


def certificates(scores: Iterable[Score]) -> Rows:
    """Return bounds, risks and baselines against the dev error of the posterior mean (percent)."""
    rows: Rows = []
    for run in unique_runs(scores):
        certificate = run.record.certificate
        if not certificate or not certificate["test"]:
            continue
        labels = {
            "run": f"{run.settings['adapter']}, seed {run.settings['seed']}",
            "task": str(run.settings["task"]),
            "error": PERCENT.factor * next(iter(certificate["test"].values()))["mean"],
        }
        values = {
            "bound": certificate["bound"],
            "posterior risk": certificate["risk"],
            "held-out baseline": certificate["baseline"].get("bound"),
        }
        rows += [
            {**labels, "quantity": name, "percent": PERCENT.factor * value}
            for name, value in values.items()
            if value is not None
        ]
    return rows


def _cells_by_label(table: PivotTable) -> list[tuple[dict[str, str], Cell]]:
    """Return the cells by the labels of row and column, one per set of runs.

    Cells that differ only in the metric hold the same runs; the first one counts.
    """
    cells: dict[tuple[str, str], Cell] = {}
    for (row, column), cell in table.ordered_cells():
        labels = _without_metric(table.spec.rows, row), _without_metric(table.spec.columns, column)
        cells.setdefault(labels, cell)
    return [({"row": row, "column": column}, cell) for (row, column), cell in cells.items()]


def _without_metric(keys: Sequence[str], group: Group) -> str:
    values = [value for key, value in zip(keys, group, strict=True) if key != "metric"]
    return group_label(tuple(values))
