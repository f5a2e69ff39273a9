"""The figure of scores against trainable parameters: the mean over tasks, and a panel per task."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rlora.reports.figures import series
from rlora.reports.figures.style import (
    FONT_SIZE,
    GRAY,
    MOST_LABELS,
    SizeAxis,
    label_points,
    new_figure,
    side_legend,
    size_axis,
)
from rlora.reports.names import display_name
from rlora.reports.pivot import PivotTable
from rlora.reports.tables import ADAPTER_PARAMETERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0  # inches; at 100 pixels per inch, the width of a README
LARGE, SMALL = 3.1, 1.7  # heights of panels in inches
LARGE_COLUMNS, SMALL_COLUMNS = 2, 5


def size_figure(table: PivotTable, colors: Mapping[str, str]) -> "Figure | None":
    """Return the figure of scores against trainable parameters; None if no adapter is trained.

    A large panel shows the mean over tasks with labeled points, small panels show the tasks.
    Without a common mean, see `series.mean_scores_by_size`, all panels are large and labeled.

    Args:
        table: The scores.
        colors: Color of each row of the table.
    """
    means, scores = series.mean_scores_by_size(table), series.scores_by_size(table)
    columns = list(dict.fromkeys(row["column"] for row in scores))
    panels = [[row for row in scores if row["column"] == column] for column in columns]
    if not panels:
        return None
    large, small = ([means], panels) if means else (panels, [])
    figure, axes = _axes(len(large), len(small))
    scales = [
        _draw(axis, rows, colors, is_large=True) for axis, rows in zip(axes, large, strict=False)
    ]
    for axis, rows in zip(axes[len(large) :], small, strict=True):
        _draw(axis, rows, colors, is_large=False)
    figure.supxlabel(ADAPTER_PARAMETERS, fontsize=FONT_SIZE)
    if len(colors) > MOST_LABELS:
        side_legend(figure, [display_name(name) for name in colors])
        return figure
    figure.draw_without_rendering()  # fixes the layout, which the labels depend on
    for axis, rows, scale in zip(axes, large, scales, strict=False):
        points = [
            (display_name(row["row"]), scale.position(row["parameters"]), row["score"], row["sd"])
            for row in rows
        ]
        row_colors = [colors[row["row"]] for row in rows]
        label_points(axis, points, row_colors, _pareto_front(rows, scale))
    return figure


def _axes(large: int, small: int) -> tuple["Figure", list["Axes"]]:
    """Return a figure with large panels above small ones."""
    wide = min(large, LARGE_COLUMNS)
    high = -(-large // wide)
    narrow = min(small, SMALL_COLUMNS) or 1
    low = -(-small // narrow)
    figure = new_figure(WIDTH, high * LARGE + low * SMALL)
    ratios = [LARGE] * high + [SMALL] * low
    grid = figure.add_gridspec(high + low, wide * narrow, height_ratios=ratios)
    axes = []
    for number in range(large):
        row, column = divmod(number, wide)
        axes.append(figure.add_subplot(grid[row, column * narrow : (column + 1) * narrow]))
    for number in range(small):
        row, column = divmod(number, narrow)
        axes.append(figure.add_subplot(grid[high + row, column * wide : (column + 1) * wide]))
    return figure, axes


def _draw(
    axis: "Axes", rows: series.Rows, colors: Mapping[str, str], *, is_large: bool
) -> SizeAxis:
    """Draw points with their standard deviations, and the Pareto front; return the x axis."""
    scale = size_axis([row["parameters"] for row in rows], most_ticks=6 if is_large else 3)
    front = _pareto_front(rows, scale)
    axis.plot([x for x, _ in front], [y for _, y in front], color=GRAY, linewidth=1.2, zorder=0)
    for row in rows:
        axis.errorbar(
            [scale.position(row["parameters"])],
            [row["score"]],
            yerr=[row["sd"]],
            fmt="o",
            markersize=6 if is_large else 3.5,
            linewidth=1.4 if is_large else 1.0,
            capsize=3 if is_large else 0,
            color=colors[row["row"]],
            label=display_name(row["row"]),
        )
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(display_name(rows[0]["column"]), fontsize=10 if is_large else 8)
    axis.tick_params(labelsize=FONT_SIZE if is_large else 7)
    axis.margins(y=0.12)
    _format_axes(axis, scale, is_large=is_large)
    if is_large:
        runs = {row["n"] for row in rows}
        axis.set_ylabel(f"score, {rows[0]['unit']}", fontsize=FONT_SIZE)
        shown = "single runs" if runs == {1} else "mean ± sd"
        note = f"{shown}, n = {runs.pop()}" if len(runs) == 1 and runs != {1} else shown
        note += "; gray line: Pareto front"
        axis.text(0.99, 0.02, note, transform=axis.transAxes, ha="right", fontsize=8, color="0.4")
    return scale


def _pareto_front(rows: series.Rows, scale: SizeAxis) -> list[tuple[float, float]]:
    points = [(scale.position(row["parameters"]), row["score"]) for row in rows if row["pareto"]]
    return sorted(points)


def _format_axes(axis: "Axes", scale: SizeAxis, *, is_large: bool) -> None:
    """Set the ticks of the x axis, and few y ticks on a small panel."""
    from matplotlib.ticker import MaxNLocator

    axis.set_xlim(scale.low, scale.high)
    axis.set_xticks(list(scale.ticks), list(scale.ticks.values()))
    axis.yaxis.set_major_locator(MaxNLocator(6 if is_large else 3))
    axis.grid(axis="y", color="0.93", linewidth=0.8)
    axis.set_axisbelow(True)
