"""The style that all figures share: colors, size in inches, and labels next to points."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Okabe and Ito (2008): distinguishable for color-blind readers; without yellow, which is too light.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
GRAY = "0.72"

# Sides in x and y on which a label may lie. A diagonal label is easily taken for that of the next
# point, so that a straight one is better even at a larger distance.
STRAIGHT = ((0, 1), (1, 0), (-1, 0), (0, -1))
DIAGONAL = ((1, 1), (-1, 1), (1, -1), (-1, -1))
DISTANCES = (7, 13, 20)  # from the point to its label, in points (1/72 inch)
LINE_STEPS = 100  # boxes per segment that stand in for a line
HORIZONTAL = {0: "center", 1: "left", -1: "right"}
VERTICAL = {0: "center", 1: "bottom", -1: "top"}


def row_colors(names: Sequence[str]) -> dict[str, str]:
    """Return the color of each row of the table, which is the same in all figures."""
    return {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}


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
    line: Sequence[tuple[float, float]] = (),
) -> None:
    """Write a label next to each point, without overlap where there is room.

    The layout must be final: labels are placed by their position on the canvas.

    Args:
        axis: Axes that show the points.
        points: Name, x, y and half the length of the error bar of each point.
        line: Corners of a line that labels do not cross.
    """
    occupied = [box for _, x, y, half in points for box in _marker_boxes(axis, x, y, half)]
    occupied += _line_boxes(axis, line)
    for name, x, y, _ in sorted(points, key=lambda point: point[1]):
        free = None
        for offset in _offsets():
            label = _label(axis, name, (x, y), offset)
            box = label.get_window_extent()
            inside = axis.bbox.containsx(box.x0) and axis.bbox.containsx(box.x1)
            if inside and not any(box.overlaps(other) for other in occupied):
                free = box
                break
            label.remove()
        if free is None:  # no room: the preferred position still names the point
            free = _label(axis, name, (x, y), next(_offsets())).get_window_extent()
        occupied.append(free)


def _offsets() -> Iterator[tuple[int, int, int]]:
    """Yield side in x, side in y and distance of a label, in order of preference."""
    for sides in (STRAIGHT, DIAGONAL):
        yield from ((x, y, distance) for distance, (x, y) in product(DISTANCES, sides))


def _label(
    axis: "Axes", name: str, point: tuple[float, float], offset: tuple[int, int, int]
) -> "Annotation":
    side_x, side_y, distance = offset
    return axis.annotate(
        name,
        point,
        xytext=(side_x * distance, side_y * distance),
        textcoords="offset points",
        ha=HORIZONTAL[side_x],
        va=VERTICAL[side_y],
        fontsize=9,
    )


def _marker_boxes(axis: "Axes", x: float, y: float, half: float) -> list["Bbox"]:
    """Return the boxes of a marker and of its error bar on the canvas."""
    from matplotlib.transforms import Bbox

    (center_x, center_y), (_, low), (_, high) = axis.transData.transform(
        [(x, y), (x, y - half), (x, y + half)]
    )
    size = 4 / 72 * axis.figure.dpi
    marker = Bbox.from_extents(center_x - size, center_y - size, center_x + size, center_y + size)
    return [marker, Bbox.from_extents(center_x - size / 2, low, center_x + size / 2, high)]


def _line_boxes(axis: "Axes", line: Sequence[tuple[float, float]]) -> list["Bbox"]:
    """Return small boxes along a line on the canvas."""
    from matplotlib.transforms import Bbox

    corners: Any = axis.transData.transform(line) if line else []
    steps = [step / LINE_STEPS for step in range(LINE_STEPS + 1)]
    places = [a + step * (b - a) for a, b in pairwise(corners) for step in steps]
    return [Bbox.from_extents(x - 1, y - 1, x + 1, y + 1) for x, y in places]
