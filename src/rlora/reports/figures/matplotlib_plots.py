"""Figures as files, by matplotlib: PDF for papers, PNG to look at."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlora.reports.figures import series
from rlora.reports.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("pdf", "png")
WIDTH, HEIGHT = 3.4, 2.8  # inches of one panel


def write(report: Report, folder: Path) -> list[Path]:
    """Draw all figures there is something to draw in; gives the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in drawn(report).items():
        for suffix in FORMATS:
            figure.savefig(folder / f"{name}.{suffix}", dpi=200, bbox_inches="tight")
            written.append(folder / f"{name}.{suffix}")
    return written


def drawn(report: Report) -> dict[str, "Figure"]:
    """All figures by name."""
    grid = report.grid
    names = [series.label(row) for row in grid.rows]
    colors = {name: f"C{number % 10}" for number, name in enumerate(names)}
    made = {
        "learning_curves": _panels(
            series.curves(grid), _curve, colors, "epoch", "validation score"
        ),
        "score_and_size": _panels(series.sizes(grid), _size, colors, "trained parameters", "score"),
        "time": _panels(series.costs(grid), _time, colors, "", "training, s"),
        "memory": _panels(series.costs(grid), _memory, colors, "", "peak memory, MiB"),
        "certificates": _certificates(series.certificates(report.runs)),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def _panels(
    rows: series.Rows, draw: Any, colors: dict[str, str], x: str, y: str
) -> "Figure | None":
    """A panel for each column of the table, in rows of four."""
    columns = list(dict.fromkeys(row["column"] for row in rows))
    if not columns:
        return None
    wide = min(4, len(columns))
    high = -(-len(columns) // wide)
    figure = _figure(wide * WIDTH, high * HEIGHT)
    axes = list(figure.subplots(high, wide, squeeze=False).flat)
    for axis, column in zip(axes, columns, strict=False):
        draw(axis, [row for row in rows if row["column"] == column], colors)
        axis.set(
            title=column,
            xlabel=x,
            ylabel=_named(y, [row for row in rows if row["column"] == column]),
        )
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(columns) :]:
        axis.set_visible(False)
    handles, names = axes[0].get_legend_handles_labels()
    if names:
        figure.legend(
            handles, names, loc="outside lower center", ncols=min(6, len(names)), frameon=False
        )
    return figure


def _named(y: str, rows: series.Rows) -> str:
    return ", ".join(dict.fromkeys([y, *(row["unit"] for row in rows if "unit" in row)]))


def _curve(axis: "Axes", rows: series.Rows, colors: dict[str, str]) -> None:
    for name, color in colors.items():
        own = [row for row in rows if row["row"] == name]
        epochs = [row["epoch"] for row in own]
        axis.plot(epochs, [row["mean"] for row in own], color=color, label=name)
        axis.fill_between(
            epochs,
            [row["low"] for row in own],
            [row["high"] for row in own],
            color=color,
            alpha=0.15,
        )


def _size(axis: "Axes", rows: series.Rows, colors: dict[str, str]) -> None:
    front = sorted((row for row in rows if row["front"]), key=lambda row: row["trained"])
    axis.plot(
        [row["trained"] for row in front], [row["score"] for row in front], color="0.7", zorder=0
    )
    for name, color in colors.items():
        own = [row for row in rows if row["row"] == name]
        x, y, spread = ([row[key] for row in own] for key in ("trained", "score", "sd"))
        axis.errorbar(x, y, yerr=spread, fmt="o", color=color, label=name, capsize=2)
    axis.set_xscale("log")


def _time(axis: "Axes", rows: series.Rows, colors: dict[str, str]) -> None:
    _bars(axis, rows, colors, "seconds")


def _memory(axis: "Axes", rows: series.Rows, colors: dict[str, str]) -> None:
    _bars(axis, rows, colors, "memory")


def _bars(axis: "Axes", rows: series.Rows, colors: dict[str, str], key: str) -> None:
    found = {row["row"]: row[key] for row in rows}
    names = [name for name in colors if name in found]
    axis.bar(
        range(len(names)), [found[name] for name in names], color=[colors[name] for name in names]
    )
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")


def _certificates(rows: series.Rows) -> "Figure | None":
    if not rows:
        return None
    figure = _figure(1.4 * WIDTH, 1.2 * HEIGHT)
    axis = figure.subplots()
    ends = [row[key] for row in rows for key in ("error", "percent")]
    axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color="0.7", linestyle="--", zorder=0)
    for marker, what in zip("osD", dict.fromkeys(row["what"] for row in rows), strict=False):
        own = [row for row in rows if row["what"] == what]
        axis.scatter(
            [row["error"] for row in own],
            [row["percent"] for row in own],
            marker=marker,
            label=what,
        )
    axis.set(xlabel="dev error of the posterior's mean, %", ylabel="on the certified rows, %")
    axis.legend(frameon=False)
    return figure


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
