"""Parts that the panels of the page share: their size, colors, font and data."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlora.reports.figures import series

FONT_SIZE = 11
CHOSEN = "chosen"  # parameter: the row that the reader highlights; "" for all
IS_SHOWN = f"{CHOSEN} === '' || datum.row === {CHOSEN}"
CONFIG = {
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": FONT_SIZE,
        "titleFontSize": FONT_SIZE,
        "titleFontWeight": "normal",
        "gridColor": "#eee",
        "domainColor": "#888",
        "tickColor": "#888",
    },
    "title": {"fontSize": 13, "fontWeight": 600, "anchor": "start"},
}


def chart(alt: Any, name: str = "rows") -> Any:
    """Return a chart of named rows, which `specification` adds."""
    return alt.Chart(alt.NamedData(name=name))


def specification(
    alt: Any, chart: Any, title: str, height: float, **datasets: series.Rows
) -> dict[str, Any]:
    """Return the specification of a panel that is as wide as its container.

    Args:
        alt: The module altair.
        chart: Chart of named data.
        title: Title.
        height: Height of the plot in pixels.
        datasets: Rows by name; altair would copy and check each value, which takes seconds.
    """
    result: dict[str, Any] = (
        chart.properties(
            width="container",
            height=height,
            title=title,
            autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        )
        .add_params(alt.param(name=CHOSEN, value=""))
        .to_dict(validate=False)
    )
    return {**result, "datasets": datasets, "config": CONFIG}


def padded(values: Sequence[float], share: float = 0.08) -> list[float]:
    """Return the limits of an axis that shows all values."""
    low, high = min(values), max(values)
    margin = share * (high - low) or 1.0
    return [low - margin, high + margin]


def color(alt: Any, colors: Mapping[str, str]) -> Any:
    """Return the color of a row; the page has one legend for all charts."""
    scale = alt.Scale(domain=list(colors), range=list(colors.values()))
    return alt.Color("row:N", scale=scale, legend=None)


def opacity(alt: Any, shown: float = 1.0, dimmed: float = 0.06) -> Any:
    """Return an opacity that dims the rows that the reader did not choose."""
    return alt.condition(IS_SHOWN, alt.value(shown), alt.value(dimmed))


def two_digits(*names: str) -> list[Any]:
    """Return tooltips with two digits after the decimal point."""
    import altair as alt

    return [alt.Tooltip(f"{name}:Q", format=".2f") for name in names]
