"""The figures as files: PDF for papers and PNG for the screen, drawn by matplotlib."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlora.io.atomic import write_atomically
from rlora.reports.figures import series
from rlora.reports.figures.size_plot import size_figure
from rlora.reports.figures.style import GRAY, new_figure, row_colors
from rlora.reports.report import Report
from rlora.reports.tables import group_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("pdf", "png")
WIDTH, HEIGHT = 3.4, 2.8  # inches of one panel
MOST_PANELS = 4  # in a row

Draw = Callable[["Axes", series.Rows, Mapping[str, str]], None]


def write(drawn: Mapping[str, "Figure"], folder: Path) -> list[Path]:
    """Write figures, by name, to a folder and return the files."""
    files = []
    for name, figure in drawn.items():
        for suffix in FORMATS:
            content = io.BytesIO()
            figure.savefig(content, format=suffix, dpi=200, bbox_inches="tight")
            files.append(write_atomically(folder / f"{name}.{suffix}", content.getvalue()))
    return files


def figures(report: Report) -> dict[str, "Figure"]:
    """Return all figures with data, by name."""
    table = report.pivot
    colors = row_colors([group_label(row) for row in table.rows])
    costs = series.costs(table)
    drawn = {
        "learning_curves": _panels(
            series.learning_curves(table), _curve, colors, "epoch", "validation score"
        ),
        "score_and_size": size_figure(table, colors),
        "time": _panels(costs, _bars("seconds"), colors, "", "training time, s"),
        "memory": _panels(costs, _bars("memory"), colors, "", "peak memory, MiB"),
        "certificates": _certificates(series.certificates(report.scores)),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _panels(
    rows: series.Rows, draw: Draw, colors: Mapping[str, str], x: str, y: str
) -> "Figure | None":
    """Return a figure with a panel per column of the table; None without data."""
    columns = list(dict.fromkeys(row["column"] for row in rows))
    if not columns:
        return None
    wide = min(MOST_PANELS, len(columns))
    high = -(-len(columns) // wide)
    figure = new_figure(wide * WIDTH, high * HEIGHT)
    axes = list(figure.subplots(high, wide, squeeze=False).flat)
    for axis, column in zip(axes, columns, strict=False):
        panel = [row for row in rows if row["column"] == column]
        draw(axis, panel, colors)
        axis.set(title=column, xlabel=x, ylabel=_with_units(y, panel))
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(columns) :]:
        axis.set_visible(False)
    handles, names = axes[0].get_legend_handles_labels()
    if names:
        columns_of_legend = min(6, len(names))
        figure.legend(
            handles, names, loc="outside lower center", ncols=columns_of_legend, frameon=False
        )
    return figure


def _with_units(label: str, rows: series.Rows) -> str:
    return ", ".join(dict.fromkeys([label, *(row["unit"] for row in rows if "unit" in row)]))


def _curve(axis: "Axes", rows: series.Rows, colors: Mapping[str, str]) -> None:
    for name, color in colors.items():
        curve = [row for row in rows if row["row"] == name]
        epochs, low, high = (_column(curve, key) for key in ("epoch", "low", "high"))
        axis.plot(epochs, _column(curve, "mean"), color=color, label=name)
        axis.fill_between(epochs, low, high, color=color, alpha=0.15)


def _bars(key: str) -> Draw:
    """Return a function that draws a bar per row of the table."""

    def draw(axis: "Axes", rows: series.Rows, colors: Mapping[str, str]) -> None:
        heights = {row["row"]: row[key] for row in rows}
        names = [name for name in colors if name in heights]
        bar_colors = [colors[name] for name in names]
        axis.bar(range(len(names)), [heights[name] for name in names], color=bar_colors)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right")

    return draw


def _certificates(rows: series.Rows) -> "Figure | None":
    if not rows:
        return None
    figure = new_figure(1.4 * WIDTH, 1.2 * HEIGHT)
    axis = figure.subplots()
    values = _column(rows, "error") + _column(rows, "percent")
    diagonal = [min(values), max(values)]
    axis.plot(diagonal, diagonal, color=GRAY, linestyle="--", zorder=0)
    quantities = dict.fromkeys(row["quantity"] for row in rows)
    for marker, quantity in zip("osD", quantities, strict=False):
        points = [row for row in rows if row["quantity"] == quantity]
        errors = _column(points, "error")
        axis.scatter(errors, _column(points, "percent"), marker=marker, label=quantity)
    axis.set(xlabel="dev error of the posterior mean, %", ylabel="on the certified rows, %")
    axis.legend(frameon=False)
    return figure


def _column(rows: Sequence[Mapping[str, float]], key: str) -> list[float]:
    return [row[key] for row in rows]
