"""What all figures share: colors of rows, the axis of sizes, and labels next to points."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlora.reports.figures.labels import Point, place_labels, spread
from rlora.reports.names import color_of, shade
from rlora.reports.pivot import PivotTable
from rlora.reports.tables import group_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRAY = "#B8B8B8"
FONT_SIZE = 9
MOST_LABELS = 14  # names in a panel; with more of them, a legend replaces them
DIGITS = (1, 2, 5)  # leading digits of ticks on a log axis
HORIZONTAL = {0: "center", 1: "left", -1: "right"}
VERTICAL = {0: "center", 1: "bottom", -1: "top"}
ROW_KEYS = ("adapter", "regularizer", "model")  # the first of them in the rows colors a row


def row_colors(table: PivotTable) -> dict[str, str]:
    """Return the color of each row: that of its adapter, lighter for further rows of the adapter.

    Rows without an adapter have the color of their label.
    """
    keys = [key for key in ROW_KEYS if key in table.spec.rows]
    colors, seen = {}, dict[str, int]()
    for row in table.rows:
        label = group_label(row)
        name = str(row[table.spec.rows.index(keys[0])]) if keys else label
        colors[label] = shade(color_of(name), seen.get(name, 0))
        seen[name] = seen.get(name, 0) + 1
    return colors


@dataclass(frozen=True)
class SizeAxis:
    """A logarithmic axis of parameter counts on which zero has a place left of all others.

    Attributes:
        zero: Position of zero.
        ticks: Labels by position.
        low: Left end.
        high: Right end.
    """

    zero: float
    ticks: Mapping[float, str]
    low: float
    high: float

    def position(self, parameters: float) -> float:
        """Return the position of a number of parameters."""
        return math.log10(parameters) if parameters > 0 else self.zero


def size_axis(parameters: Sequence[float], most_ticks: int = 5) -> SizeAxis:
    """Return the axis for these numbers of parameters, one of which is above zero."""
    positive = [math.log10(value) for value in parameters if value > 0]
    least, greatest = min(positive), max(positive)
    room = max(0.3 * (greatest - least), 0.25)
    zero = least - room
    has_zero = len(positive) < len(parameters)
    margin = 0.08 * (greatest - (zero if has_zero else least)) + 0.03
    low, high = (zero if has_zero else least) - margin, greatest + margin
    ticks = {zero: "0"} if has_zero else {}
    ticks |= _log_ticks(least - margin, high, most_ticks - len(ticks))
    return SizeAxis(zero, ticks, low, high)


def _log_ticks(low: float, high: float, most: int) -> dict[float, str]:
    """Return ticks at round numbers: powers of ten, or 1, 2 and 5 times these if they are few."""
    for digits in ((1,), DIGITS, range(1, 10)):
        values = [
            digit * 10.0**power
            for power in range(math.floor(low), math.ceil(high) + 1)
            for digit in digits
            if low <= math.log10(digit * 10.0**power) <= high
        ]
        if len(values) > 1:
            step = -(-len(values) // most)
            return {math.log10(value): short_number(value) for value in values[::step]}
    middle = (low + high) / 2
    return {middle: short_number(float(f"{10**middle:.3g}"))}


def short_number(value: float) -> str:
    """Return a number of parameters with a unit, such as 10K or 1.5M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches, independent of pyplot and of a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def label_points(
    axis: "Axes",
    points: Sequence[tuple[str, float, float, float]],
    colors: Sequence[str],
    line: Sequence[tuple[float, float]] = (),
) -> None:
    """Write a label next to each point, without overlap where there is room.

    The layout must be final: labels are placed by their position on the canvas.

    Args:
        axis: Axes that show the points.
        points: Name, x, y and half the length of the error bar of each point.
        colors: Color of each point.
        line: Corners of a line that labels do not cross.
    """
    pixels = axis.transData.transform
    placed = []
    for name, x, y, half in points:
        probe = axis.annotate(name, (x, y), fontsize=FONT_SIZE)
        extent = probe.get_window_extent()
        probe.remove()
        (center_x, center_y), (_, top) = pixels([(x, y), (x, y + half)])
        placed.append(Point(center_x, center_y, top - center_y, extent.width, extent.height))
    corners = [(float(x), float(y)) for x, y in pixels(line)] if line else []
    scale = axis.figure.dpi / 72
    offsets = place_labels(placed, corners, axis.bbox.x0, axis.bbox.x1, scale)
    for (name, x, y, _), color, offset in zip(points, colors, offsets, strict=True):
        shift = offset.side_x * offset.distance, offset.side_y * offset.distance
        axis.annotate(
            name,
            (x, y),
            xytext=shift,
            textcoords="offset points",
            ha=HORIZONTAL[offset.side_x],
            va=VERTICAL[offset.side_y],
            color=color,
            fontsize=FONT_SIZE,
        )


def side_legend(figure: "Figure", names: Sequence[str]) -> None:
    """Add a legend right of the panels, which holds each name once, in this order."""
    handles = [axis.get_legend_handles_labels() for axis in figure.axes]
    lines = {name: line for pair in handles for line, name in zip(*pair, strict=True)}
    shown = [name for name in names if name in lines]
    figure.legend(
        [lines[name] for name in shown],
        shown,
        loc="outside right upper",
        fontsize=7,
        frameon=False,
    )


def label_lines(
    figure: "Figure",
    panels: Sequence[tuple["Axes", Sequence[tuple[str, float, float, str]]]],
    font_size: float = 7.5,
) -> None:
    """Write the name of each line right of its end, in its color and without overlap.

    Args:
        figure: The figure.
        panels: Axes with the name, x, y and color of the end of each of their lines.
        font_size: Size in points.
    """
    texts = [
        [
            axis.text(
                1.02,
                0.5,
                name,
                transform=axis.transAxes,
                va="center",
                color=color,
                fontsize=font_size,
            )
            for name, _, _, color in ends
        ]
        for axis, ends in panels
    ]
    figure.draw_without_rendering()  # the layout leaves room for the names; then they may move
    for (axis, ends), names in zip(panels, texts, strict=True):
        pixels = axis.transData.transform([(x, y) for _, x, y, _ in ends])
        gap = 1.15 * font_size * figure.dpi / 72
        low, high = axis.bbox.y0 + gap / 2, axis.bbox.y1 - gap / 2
        heights = spread([float(y) for _, y in pixels], gap, low, high)
        for text, height in zip(names, heights, strict=True):
            text.set_y((height - axis.bbox.y0) / axis.bbox.height)
