"""The figures as files: PDF for papers and PNG for the screen, drawn by matplotlib."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlora.io.atomic import write_atomically
from rlora.reports.figures import series
from rlora.reports.figures.size_plot import size_figure
from rlora.reports.figures.style import (
    FONT_SIZE,
    GRAY,
    MOST_LABELS,
    label_lines,
    new_figure,
    row_colors,
    side_legend,
)
from rlora.reports.names import color_of, display_name
from rlora.reports.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("pdf", "png")
WIDTH, HEIGHT = 3.4, 2.8  # inches of one panel
BAR = 0.24  # inches of one bar
MOST_PANELS = 4  # in a row


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
    colors = row_colors(table)
    costs = series.costs(table)
    drawn = {
        "learning_curves": _learning_curves(series.learning_curves(table), colors),
        "score_and_size": size_figure(table, colors),
        "time": _bars(costs, colors, "seconds", "training time, s"),
        "memory": _bars(costs, colors, "memory", "peak memory, MiB"),
        "certificates": _certificates(series.certificates(report.scores)),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _panels(
    rows: series.Rows, height: float
) -> tuple["Figure", list[tuple["Axes", series.Rows]]] | None:
    """Return a figure with a panel per column of the table, and its rows; None without data."""
    columns = list(dict.fromkeys(row["column"] for row in rows))
    if not columns:
        return None
    high = -(-len(columns) // MOST_PANELS)
    wide = -(-len(columns) // high)  # 5 panels are 3 and 2, not 4 and 1
    figure = new_figure(wide * WIDTH, high * height)
    axes = list(figure.subplots(high, wide, squeeze=False).flat)
    panels = []
    for axis, column in zip(axes, columns, strict=False):
        axis.set_title(display_name(column), fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        panels.append((axis, [row for row in rows if row["column"] == column]))
    for axis in axes[len(columns) :]:
        axis.set_visible(False)
    return figure, panels


def _learning_curves(rows: series.Rows, colors: Mapping[str, str]) -> "Figure | None":
    """Draw means with bands from the lowest to the highest run, each line with its name."""
    from matplotlib.ticker import MaxNLocator

    found = _panels(rows, HEIGHT)
    if found is None:
        return None
    figure, panels = found
    lines = []
    for axis, panel in panels:
        ends = []
        for name, color in colors.items():
            curve = [row for row in panel if row["row"] == name]
            if not curve:
                continue
            epochs, means = _column(curve, "epoch"), _column(curve, "mean")
            low, high = _column(curve, "low"), _column(curve, "high")
            # A single epoch is no line: a marker shows it.
            marker = "o" if len(curve) == 1 else ""
            axis.plot(epochs, means, color=color, label=display_name(name), marker=marker)
            axis.fill_between(epochs, low, high, color=color, alpha=0.1, linewidth=0)
            ends.append((display_name(name), epochs[-1], means[-1], color))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_xlabel("epoch", fontsize=FONT_SIZE)
        axis.set_ylabel(f"validation {series.axis_title(panel)}", fontsize=FONT_SIZE)
        lines.append((axis, ends))
    if len(colors) > MOST_LABELS:
        side_legend(figure, [display_name(name) for name in colors])
    else:
        label_lines(figure, lines)
    return figure


def _bars(rows: series.Rows, colors: Mapping[str, str], key: str, title: str) -> "Figure | None":
    """Draw a horizontal bar per row of the table, so that names need no room below each other."""
    from matplotlib.ticker import MaxNLocator

    found = _panels(rows, 0.9 + BAR * len(colors))
    if found is None:
        return None
    figure, panels = found
    for axis, panel in panels:
        lengths = {row["row"]: row[key] for row in panel}
        names = [name for name in colors if name in lengths]
        bar_colors = [colors[name] for name in names]
        places = range(len(names))
        axis.barh(places, [lengths[name] for name in names], color=bar_colors, height=0.7)
        axis.set_yticks(places, [display_name(name) for name in names])
        axis.tick_params(axis="y", length=0)
        axis.invert_yaxis()
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_xlabel(title, fontsize=FONT_SIZE)
    return figure


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
        axis.scatter(
            errors,
            _column(points, "percent"),
            marker=marker,
            color=color_of(quantity),
            label=quantity,
        )
    axis.set(xlabel="dev error of the posterior mean, %", ylabel="on the certified rows, %")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def _column(rows: Sequence[Mapping[str, float]], key: str) -> list[float]:
    return [row[key] for row in rows]
