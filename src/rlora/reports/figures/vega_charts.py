"""The figures of the page: Vega-Lite specifications, made by altair."""

from collections.abc import Sequence
from typing import Any

from rlora.reports.figures import series
from rlora.reports.report import Report
from rlora.reports.tables import group_label

SIZE = {"width": 215, "height": 180}
GRAY = "#bbb"


def specifications(report: Report) -> dict[str, dict[str, Any]]:
    """Return the specifications of all figures with data, by title."""
    table = report.pivot
    order = [group_label(row) for row in table.rows]
    sizes = series.mean_scores_by_size(table) + series.scores_by_size(table)
    charts = {
        "Learning curves: validation score by epoch": _learning_curves(
            series.learning_curves(table), order
        ),
        "Scores against trainable parameters (line: Pareto front)": _scores_by_size(sizes, order),
        "Training time": _bars(series.costs(table), order, "seconds", "training time, s"),
        "Peak memory": _bars(series.costs(table), order, "memory", "peak memory, MiB"),
        "PAC-Bayes certificates against dev error": _certificates(
            series.certificates(report.scores)
        ),
    }
    return {title: chart.to_dict() for title, chart in charts.items() if chart is not None}


def _learning_curves(rows: series.Rows, order: Sequence[str]) -> Any:
    import altair as alt

    if not rows:
        return None
    selected = _legend_selection(alt)
    base = alt.Chart().encode(
        x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d")),
        color=_color(alt, order),
        opacity=alt.condition(selected, alt.value(1), alt.value(0.06)),
    )
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=_units(rows)),
        y2="high:Q",
        opacity=alt.condition(selected, alt.value(0.15), alt.value(0.02)),
    )
    tooltip = ["row:N", "epoch:Q", *_two_digits("mean", "low", "high"), "n:Q"]
    y = alt.Y("mean:Q", scale=alt.Scale(zero=False), title=_units(rows))
    line = base.mark_line(point=True).encode(y=y, tooltip=tooltip)
    return _panels(alt, alt.layer(band, line.add_params(selected)), rows)


def _scores_by_size(rows: series.Rows, order: Sequence[str]) -> Any:
    import altair as alt

    selected = _legend_selection(alt)
    x = alt.X(
        "parameters:Q",
        scale=alt.Scale(type="log", nice=False, padding=12),
        title="trainable parameters, with head",
    )
    y = alt.Y("score:Q", scale=alt.Scale(zero=False, padding=8), title=_units(rows))
    front = alt.Chart().mark_line(color=GRAY).transform_filter("datum.pareto").encode(x=x, y=y)
    base = alt.Chart().encode(
        x=x,
        color=_color(alt, order),
        opacity=alt.condition(selected, alt.value(1), alt.value(0.06)),
    )
    bars = base.transform_calculate(low="datum.score - datum.sd", high="datum.score + datum.sd")
    bars = bars.mark_rule().encode(y=alt.Y("low:Q", title=_units(rows)), y2="high:Q")
    parameters = alt.Tooltip("parameters:Q", format=",")
    tooltip = ["row:N", parameters, *_two_digits("score", "sd"), "n:Q"]
    points = base.mark_point(filled=True, size=70).encode(y=y, tooltip=tooltip)
    return _panels(alt, alt.layer(front, bars, points.add_params(selected)), rows)


def _bars(rows: series.Rows, order: Sequence[str], key: str, title: str) -> Any:
    import altair as alt

    chart = alt.Chart().mark_bar()
    chart = chart.encode(
        x=alt.X("row:N", sort=order, title=None),
        y=alt.Y(f"{key}:Q", title=title),
        color=_color(alt, order),
        tooltip=["row:N", "column:N", alt.Tooltip(f"{key}:Q", format=",.1f")],
    )
    return _panels(alt, chart, rows)


def _certificates(rows: series.Rows) -> Any:
    import altair as alt

    if not rows:
        return None
    values = [row[key] for row in rows for key in ("error", "percent")]
    limits = [min(values) - 1, max(values) + 1]
    scale = alt.Scale(domain=limits)
    points = alt.Chart(alt.Data(values=rows)).mark_point(filled=True, size=70)
    points = points.encode(
        x=alt.X("error:Q", scale=scale, title="dev error of the posterior mean, %"),
        y=alt.Y("percent:Q", scale=scale, title="on the certified rows, %"),
        color=alt.Color("quantity:N", title=None),
        shape="quantity:N",
        tooltip=["task:N", "run:N", "quantity:N", *_two_digits("percent", "error")],
    )
    diagonal = alt.Chart(alt.Data(values=[{"limit": limit} for limit in limits]))
    diagonal = diagonal.mark_line(color=GRAY, strokeDash=[4, 4]).encode(
        x=alt.X("limit:Q", scale=scale), y=alt.Y("limit:Q", scale=scale)
    )
    return alt.layer(diagonal, points).properties(width=360, height=300)


def _panels(alt: Any, chart: Any, rows: series.Rows) -> Any:
    """Return a panel per column of the table."""
    columns = list(dict.fromkeys(row["column"] for row in rows))
    facet = alt.Facet("column:N", title=None, sort=columns)
    return (
        chart.properties(**SIZE)
        .facet(facet, columns=min(4, len(columns)), data=alt.Data(values=rows))
        .resolve_scale(x="independent", y="independent")
    )


def _units(rows: series.Rows) -> str:
    return ", ".join(dict.fromkeys(row["unit"] for row in rows))


def _color(alt: Any, order: Sequence[str]) -> Any:
    return alt.Color(
        "row:N",
        sort=order,
        scale=alt.Scale(domain=order),
        legend=alt.Legend(orient="top", title=None, symbolOpacity=1),
    )


def _legend_selection(alt: Any) -> Any:
    """Return the selection of a row: a click on the legend dims all others."""
    return alt.selection_point(fields=["row"], bind="legend")


def _two_digits(*names: str) -> list[Any]:
    """Return tooltips with two digits after the decimal point."""
    import altair as alt

    return [alt.Tooltip(f"{name}:Q", format=".2f") for name in names]
