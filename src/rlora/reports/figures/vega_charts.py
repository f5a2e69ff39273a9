"""The figures of the page: a Vega-Lite specification per panel, made by altair.

A panel is as wide as its container, so that the page decides how many of them fit next to each
other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlora.reports.figures import series
from rlora.reports.figures.labels import Offset, Point, place_labels, spread
from rlora.reports.figures.style import GRAY, MOST_LABELS, SizeAxis, row_colors, size_axis
from rlora.reports.figures.vega_parts import (
    FONT_SIZE,
    chart,
    color,
    opacity,
    padded,
    specification,
    two_digits,
)
from rlora.reports.names import color_of, display_name
from rlora.reports.report import Report
from rlora.reports.tables import ADAPTER_PARAMETERS

HEIGHT, LARGE_HEIGHT, BAR = 210, 300, 22  # pixels
NARROW = 230  # width of the plot on a phone, at which labels must not overlap
CHARACTER = 0.62 * FONT_SIZE  # mean width of one


@dataclass(frozen=True)
class Chart:
    """A figure of the page.

    Attributes:
        title: Heading.
        panels: Specification of each panel.
        has_overview: Whether the first panel summarizes the others and is wider than they are.
    """

    title: str
    panels: list[dict[str, Any]]
    has_overview: bool = False


def named_colors(report: Report) -> dict[str, str]:
    """Return the color of each row by its name."""
    return {display_name(name): row_color for name, row_color in row_colors(report.pivot).items()}


def charts(report: Report) -> list[Chart]:
    """Return all figures with data."""
    from altair.utils.schemapi import debug_mode

    with debug_mode(False):  # checking each part against the schema takes seconds; tests check all
        found = _charts(report)
    return [each for each in found if each.panels]


def _charts(report: Report) -> list[Chart]:
    table = report.pivot
    colors = named_colors(report)
    means, sizes = series.mean_scores_by_size(table), series.scores_by_size(table)
    costs = series.costs(table)
    return [
        Chart(
            "Scores against trainable parameters of the adapter; gray line: Pareto front",
            [
                *_panels(means, colors, _large_size_panel),
                *_panels(sizes, colors, _size_panel if means else _large_size_panel),
            ],
            has_overview=bool(means),
        ),
        Chart(
            "Learning curves: mean validation score by epoch, from lowest to highest run",
            _panels(series.learning_curves(table), colors, _curve_panel),
        ),
        Chart("Training time", _panels(costs, colors, _bar_panel("seconds", "seconds"))),
        Chart("Peak memory", _panels(costs, colors, _bar_panel("memory", "MiB"))),
        Chart(
            "PAC-Bayes certificates against dev error",
            _certificates(series.certificates(report.scores)),
        ),
    ]


def _panels(rows: series.Rows, colors: Mapping[str, str], draw: Any) -> list[dict[str, Any]]:
    """Return a panel per column of the table."""
    named = [
        {**row, "row": display_name(row["row"]), "column": display_name(row["column"])}
        for row in rows
    ]
    columns = list(dict.fromkeys(row["column"] for row in named))
    return [
        draw([row for row in named if row["column"] == column], colors, column)
        for column in columns
    ]


def _curve_panel(rows: series.Rows, colors: Mapping[str, str], title: str) -> dict[str, Any]:
    import altair as alt

    y_title = f"validation {series.axis_title(rows)}"
    scale = padded([row["low"] for row in rows] + [row["high"] for row in rows])
    last = max(row["epoch"] for row in rows)
    x = alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, tickCount=6, format="d", grid=False))
    heights = alt.Scale(domain=scale, nice=False, zero=False)
    y = alt.Y("mean:Q", scale=heights, title=y_title)
    base = chart(alt).encode(x=x, color=color(alt, colors))
    low = alt.Y("low:Q", scale=heights, title=y_title)
    band = base.mark_area().encode(y=low, y2="high:Q", opacity=opacity(alt, 0.1, 0.02))
    tooltip = ["row:N", "epoch:Q", *two_digits("mean", "low", "high"), "n:Q"]
    line = base.mark_line(point=alt.OverlayMarkDef(size=18)).encode(
        y=y, tooltip=tooltip, opacity=opacity(alt)
    )
    ends = _line_ends(rows, scale)
    names = chart(alt, "ends").encode(
        x=alt.datum(last),
        y=alt.Y("place:Q", scale=heights, title=y_title),
        text="row:N",
        color=color(alt, colors),
    )
    names = names.mark_text(align="left", dx=8, fontSize=FONT_SIZE).encode(opacity=opacity(alt))
    layers = [band, line, names] if len(colors) <= MOST_LABELS else [band, line]
    return specification(alt, alt.layer(*layers), title, HEIGHT, rows=rows, ends=ends)


def _line_ends(rows: series.Rows, scale: Sequence[float]) -> series.Rows:
    """Return the last point of each line, with the height of its name in units of the axis."""
    ends = list({row["row"]: row for row in rows}.values())
    unit = (scale[1] - scale[0]) / HEIGHT
    places = spread([row["mean"] for row in ends], 1.2 * FONT_SIZE * unit, scale[0], scale[1])
    return [{"row": row["row"], "place": place} for row, place in zip(ends, places, strict=True)]


def _large_size_panel(rows: series.Rows, colors: Mapping[str, str], title: str) -> dict[str, Any]:
    return _size_panel(rows, colors, title, height=LARGE_HEIGHT, has_labels=True)


def _size_panel(
    rows: series.Rows,
    colors: Mapping[str, str],
    title: str,
    height: int = HEIGHT,
    *,
    has_labels: bool = False,
) -> dict[str, Any]:
    import altair as alt

    sizes = size_axis([row["parameters"] for row in rows], most_ticks=4)
    scale = padded(
        [row["score"] - row["sd"] for row in rows] + [row["score"] + row["sd"] for row in rows]
    )
    rows = [
        {
            **row,
            "position": sizes.position(row["parameters"]),
            "low": row["score"] - row["sd"],
            "high": row["score"] + row["sd"],
        }
        for row in rows
    ]
    labels = " : ".join(
        f"abs(datum.value - {place}) < 1e-6 ? '{text}'" for place, text in sizes.ticks.items()
    )
    axis = alt.Axis(values=list(sizes.ticks), labelExpr=f"{labels} : ''", grid=False)
    domain = alt.Scale(domain=[sizes.low, sizes.high], nice=False, zero=False)
    x = alt.X("position:Q", scale=domain, axis=axis, title=ADAPTER_PARAMETERS)
    y_title = f"score, {', '.join(dict.fromkeys(row['unit'] for row in rows))}"
    heights = alt.Scale(domain=scale, nice=False, zero=False)
    y = alt.Y("score:Q", scale=heights, title=y_title)
    front = chart(alt).mark_line(color=GRAY).transform_filter("datum.pareto").encode(x=x, y=y)
    base = chart(alt).encode(x=x, color=color(alt, colors), opacity=opacity(alt))
    low = alt.Y("low:Q", scale=heights, title=y_title)
    bars = base.mark_rule(strokeWidth=1.5).encode(y=low, y2="high:Q")
    parameters = alt.Tooltip("parameters:Q", format=",")
    tooltip = ["row:N", parameters, *two_digits("score", "sd"), "n:Q"]
    points = base.mark_point(filled=True, size=70).encode(y=y, tooltip=tooltip)
    layers = [front, bars, points]
    if has_labels and len(colors) <= MOST_LABELS:
        places = _label_places(rows, sizes, scale, height)
        layers += [_point_label(alt, base, y, name, place) for name, place in places.items()]
    return specification(alt, alt.layer(*layers), title, height, rows=rows)


def _label_places(
    rows: series.Rows, sizes: SizeAxis, scale: Sequence[float], height: int
) -> dict[str, Offset]:
    """Return the place of the name of each point, as on a phone: a wider page has more room."""
    across, up = NARROW / (sizes.high - sizes.low), height / (scale[1] - scale[0])

    def pixels(row: dict[str, Any]) -> tuple[float, float]:
        return (row["position"] - sizes.low) * across, (row["score"] - scale[0]) * up

    points = [
        Point(*pixels(row), row["sd"] * up, CHARACTER * len(row["row"]), 1.2 * FONT_SIZE)
        for row in rows
    ]
    line = sorted(pixels(row) for row in rows if row["pareto"])
    offsets = place_labels(points, line, 0, NARROW)
    return {row["row"]: offset for row, offset in zip(rows, offsets, strict=True)}


def _point_label(alt: Any, base: Any, y: Any, name: str, place: Offset) -> Any:
    text = base.transform_filter(alt.FieldEqualPredicate(field="row", equal=name))
    return text.mark_text(
        text=name,
        align={-1: "right", 0: "center", 1: "left"}[place.side_x],
        baseline={-1: "top", 0: "middle", 1: "bottom"}[place.side_y],
        dx=place.side_x * place.distance,
        dy=-place.side_y * place.distance,
        fontSize=FONT_SIZE,
    ).encode(y=y)


def _bar_panel(key: str, title: str) -> Any:
    """Return a function that draws a horizontal bar per row of the table."""

    def draw(rows: series.Rows, colors: Mapping[str, str], column: str) -> dict[str, Any]:
        import altair as alt

        axis = alt.Axis(tickCount=4)
        bars = chart(alt).mark_bar(height={"band": 0.7})
        bars = bars.encode(
            x=alt.X(f"{key}:Q", title=title, axis=axis),
            y=alt.Y("row:N", sort=list(colors), title=None, axis=alt.Axis(ticks=False)),
            color=color(alt, colors),
            opacity=opacity(alt),
            tooltip=["row:N", "column:N", alt.Tooltip(f"{key}:Q", format=",.1f")],
        )
        return specification(alt, bars, column, BAR * len({row["row"] for row in rows}), rows=rows)

    return draw


def _certificates(rows: series.Rows) -> list[dict[str, Any]]:
    import altair as alt

    if not rows:
        return []
    values = [row[key] for row in rows for key in ("error", "percent")]
    limits = [min(values) - 1, max(values) + 1]
    scale = alt.Scale(domain=limits)
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    colors = alt.Scale(domain=quantities, range=[color_of(name) for name in quantities])
    points = chart(alt).mark_point(filled=True, size=70)
    points = points.encode(
        x=alt.X("error:Q", scale=scale, title="dev error of the posterior mean, %"),
        y=alt.Y("percent:Q", scale=scale, title="on the certified rows, %"),
        color=alt.Color("quantity:N", title=None, scale=colors),
        shape=alt.Shape("quantity:N", title=None),
        tooltip=["task:N", "run:N", "quantity:N", *two_digits("percent", "error")],
    )
    diagonal = chart(alt, "limits")
    diagonal = diagonal.mark_line(color=GRAY, strokeDash=[4, 4]).encode(
        x=alt.X("limit:Q", scale=scale), y=alt.Y("limit:Q", scale=scale)
    )
    return [
        specification(
            alt,
            alt.layer(diagonal, points),
            "",
            LARGE_HEIGHT,
            rows=rows,
            limits=[{"limit": limit} for limit in limits],
        )
    ]
