"""The same figures for the page, as Vega-Lite specifications made by altair."""

from typing import Any

from rlora.reports.figures import series
from rlora.reports.report import Report

SIZE = {"width": 215, "height": 180}


def specifications(report: Report) -> dict[str, dict[str, Any]]:
    """Specifications by title, of what there is something to show."""
    grid = report.grid
    order = [series.label(row) for row in grid.rows]
    charts = {
        "Learning curves: validation score by epoch": _curves(series.curves(grid), order),
        "Score against trained parameters (line: the Pareto front)": _sizes(
            series.sizes(grid), order
        ),
        "Time of training": _bars(series.costs(grid), order, "seconds", "training, s"),
        "Peak memory": _bars(series.costs(grid), order, "memory", "MiB"),
        "PAC-Bayes certificates against dev error": _certificates(series.certificates(report.runs)),
    }
    return {title: chart.to_dict() for title, chart in charts.items() if chart is not None}


def _curves(rows: series.Rows, order: list[str]) -> Any:
    import altair as alt

    if not rows:
        return None
    color, shown = _color(alt, order), _legend(alt)
    x = alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d"))
    base = alt.Chart().encode(
        x=x, color=color, opacity=alt.condition(shown, alt.value(1), alt.value(0.06))
    )
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=_units(rows)),
        y2="high:Q",
        opacity=alt.condition(shown, alt.value(0.15), alt.value(0.02)),
    )
    tooltip = ["row:N", "epoch:Q", _two("mean"), _two("low"), _two("high"), "n:Q"]
    line = base.mark_line(point=True).encode(
        y=alt.Y("mean:Q", scale=alt.Scale(zero=False), title=_units(rows)), tooltip=tooltip
    )
    return _facets(alt, alt.layer(band, line.add_params(shown)), rows)


def _sizes(rows: series.Rows, order: list[str]) -> Any:
    import altair as alt

    shown = _legend(alt)
    x = alt.X(
        "trained:Q",
        scale=alt.Scale(type="log", nice=False, padding=12),
        title="trained parameters, head included",
    )
    y = alt.Y("score:Q", scale=alt.Scale(zero=False, padding=8), title=_units(rows))
    front = alt.Chart().mark_line(color="#bbb").transform_filter("datum.front").encode(x=x, y=y)
    base = alt.Chart().encode(
        x=x, color=_color(alt, order), opacity=alt.condition(shown, alt.value(1), alt.value(0.06))
    )
    bars = base.transform_calculate(low="datum.score - datum.sd", high="datum.score + datum.sd")
    bars = bars.mark_rule().encode(y=alt.Y("low:Q", title=_units(rows)), y2="high:Q")
    tooltip = ["row:N", alt.Tooltip("trained:Q", format=","), _two("score"), _two("sd"), "n:Q"]
    points = base.mark_point(filled=True, size=70).encode(y=y, tooltip=tooltip).add_params(shown)
    return _facets(alt, alt.layer(front, bars, points), rows)


def _bars(rows: series.Rows, order: list[str], key: str, title: str) -> Any:
    import altair as alt

    chart = (
        alt.Chart()
        .mark_bar()
        .encode(
            x=alt.X("row:N", sort=order, title=None),
            y=alt.Y(f"{key}:Q", title=title),
            color=_color(alt, order),
            tooltip=["row:N", "column:N", alt.Tooltip(f"{key}:Q", format=",.1f")],
        )
    )
    return _facets(alt, chart, rows)


def _certificates(rows: series.Rows) -> Any:
    import altair as alt

    if not rows:
        return None
    ends = [row[key] for row in rows for key in ("error", "percent")]
    limits = alt.Scale(domain=[min(ends) - 1, max(ends) + 1])
    points = (
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, size=70)
        .encode(
            x=alt.X("error:Q", scale=limits, title="dev error of the posterior's mean, %"),
            y=alt.Y("percent:Q", scale=limits, title="on the certified rows, %"),
            color=alt.Color("what:N", title=None),
            shape="what:N",
            tooltip=["task:N", "run:N", "what:N", _two("percent"), _two("error")],
        )
    )
    ends_of_line = alt.Data(values=[{"e": end} for end in (min(ends) - 1, max(ends) + 1)])
    equal = (
        alt.Chart(ends_of_line)
        .mark_line(color="#bbb", strokeDash=[4, 4])
        .encode(x=alt.X("e:Q", scale=limits), y=alt.Y("e:Q", scale=limits))
    )
    return alt.layer(equal, points).properties(width=360, height=300)


def _facets(alt: Any, chart: Any, rows: series.Rows) -> Any:
    """A panel for each column of the table."""
    columns = list(dict.fromkeys(row["column"] for row in rows))
    facet = alt.Facet("column:N", title=None, sort=columns)
    return (
        chart.properties(**SIZE)
        .facet(facet, columns=min(4, len(columns)), data=alt.Data(values=rows))
        .resolve_scale(x="independent", y="independent")
    )


def _units(rows: series.Rows) -> str:
    return ", ".join(dict.fromkeys(row["unit"] for row in rows))


def _color(alt: Any, order: list[str]) -> Any:
    return alt.Color(
        "row:N",
        sort=order,
        scale=alt.Scale(domain=order),
        legend=alt.Legend(orient="top", title=None, symbolOpacity=1),
    )


def _legend(alt: Any) -> Any:
    """Clicking on the legend leaves one row standing."""
    return alt.selection_point(fields=["row"], bind="legend")


def _two(name: str) -> Any:
    import altair as alt

    return alt.Tooltip(f"{name}:Q", format=".2f")
