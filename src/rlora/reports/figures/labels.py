"""Places of labels in a figure, in pixels or points: pure geometry, shared by files and pages."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

# Sides in x and y on which a label may be. A diagonal label is easily taken for that of the next
# point, so that a straight one is better even at a larger distance.
STRAIGHT = ((0, 1), (1, 0), (-1, 0), (0, -1))
DIAGONAL = ((1, 1), (-1, 1), (1, -1), (-1, -1))
DISTANCES = (7, 13, 20)  # from the point to its label
LINE_STEPS = 100  # boxes per segment that stand in for a line


class Box(NamedTuple):
    """A rectangle; y points upward."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        """Return whether two rectangles share an area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )


class Point(NamedTuple):
    """A point with the half length of its error bar, and the size of its label."""

    x: float
    y: float
    half: float
    width: float
    height: float


class Offset(NamedTuple):
    """The place of a label: the side of its point in x and y (-1, 0 or 1), and the distance."""

    side_x: int
    side_y: int
    distance: float


def place_labels(
    points: Sequence[Point],
    line: Sequence[tuple[float, float]],
    left: float,
    right: float,
    scale: float = 1.0,
) -> list[Offset]:
    """Return the place of each label, without overlap where there is room.

    Args:
        points: The points, with the sizes of their labels.
        line: Corners of a line that labels do not cross.
        left: Left edge of the panel.
        right: Right edge of the panel.
        scale: Pixels per unit of `DISTANCES`.
    """
    occupied = [box for point in points for box in _point_boxes(point, scale)]
    occupied += _line_boxes(line)
    offsets: dict[int, Offset] = {}
    for number in sorted(range(len(points)), key=lambda number: points[number].x):
        point = points[number]
        candidates = [(each, _label_box(point, each, scale)) for each in _offsets()]
        free = (
            (offset, box)
            for offset, box in candidates
            if box.left >= left
            and box.right <= right
            and not any(box.overlaps(other) for other in occupied)
        )
        # Without room the preferred place still names the point.
        offsets[number], box = next(free, candidates[0])
        occupied.append(box)
    return [offsets[number] for number in range(len(points))]


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions near the values, in their order, at least `gap` apart and within limits.

    Groups of labels that would overlap are centered on their values.

    Args:
        values: Preferred positions.
        gap: Least distance between two positions.
        low: Smallest position.
        high: Largest position; exceeded if there is no room.
    """
    order = sorted(range(len(values)), key=lambda index: values[index])
    groups: list[list[int]] = []
    starts: list[float] = []
    for index in order:
        groups.append([index])
        starts.append(min(max(values[index], low), high))
        while len(groups) > 1 and starts[-2] + gap * len(groups[-2]) > starts[-1]:
            above = groups.pop()
            groups[-1] += above
            starts.pop()
            size = len(groups[-1])
            middle = sum(values[each] for each in groups[-1]) / size
            start = middle - gap * (size - 1) / 2
            starts[-1] = max(low, min(start, high - gap * (size - 1)))
    places = [0.0] * len(values)
    for group, start in zip(groups, starts, strict=True):
        for step, index in enumerate(group):
            places[index] = start + gap * step
    return places


def _offsets() -> Iterator[Offset]:
    """Yield the places of a label in order of preference."""
    for sides in (STRAIGHT, DIAGONAL):
        yield from (Offset(x, y, distance) for distance, (x, y) in product(DISTANCES, sides))


def _label_box(point: Point, offset: Offset, scale: float) -> Box:
    x = point.x + offset.side_x * offset.distance * scale
    y = point.y + offset.side_y * offset.distance * scale
    left = x - point.width * (1 - offset.side_x) / 2
    bottom = y - point.height * (1 - offset.side_y) / 2
    return Box(left, bottom, left + point.width, bottom + point.height)


def _point_boxes(point: Point, scale: float) -> list[Box]:
    """Return the boxes of a marker and of its error bar."""
    size, half = 4 * scale, max(point.half, 0.0)
    return [
        Box(point.x - size, point.y - size, point.x + size, point.y + size),
        Box(point.x - size / 2, point.y - half, point.x + size / 2, point.y + half),
    ]


def _line_boxes(line: Sequence[tuple[float, float]]) -> list[Box]:
    """Return small boxes along a line."""
    steps = [step / LINE_STEPS for step in range(LINE_STEPS + 1)]
    places = [
        (x0 + step * (x1 - x0), y0 + step * (y1 - y0))
        for (x0, y0), (x1, y1) in pairwise(line)
        for step in steps
    ]
    return [Box(x - 1, y - 1, x + 1, y + 1) for x, y in places]
