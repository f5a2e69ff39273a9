"""The figure of the results: steps, memory, growth with tokens, and the transform."""

import io
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.results import Document
from benchmarks.variants import LIMIT, PEFT, REDRAW
from rlora.reports.names import color_of, display_name, shade

# Adapters have the colors of all reports. Markers and hatches repeat the distinction.
BLUE, VERMILION, BLACK = "#0072B2", "#D55E00", "#000000"
LIGHT, DARK = "#B8B8B8", "#555555"
ADAPTERS = ("lora", "rlora", "nola", "vera", "randlora")
LINES = {
    "lora": (color_of("lora"), "o"),
    "rlora": (color_of("rlora"), "s"),
    "nola": (color_of("nola"), "^"),
    "nola (hadamard)": (shade(color_of("nola"), 2), "v"),
    "vera": (color_of("vera"), "D"),
    "randlora": (color_of("randlora"), "P"),
}
HATCHES = ("", "///", "...")
Panel = Callable[[Any, Mapping[str, Any]], None]


def png(document: Document, title: str) -> bytes:
    """Draw the figure. A panel of a part without results is empty and says so."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.2), layout="constrained")
    panels: list[tuple[str, Panel]] = [
        ("steps", _step_bars),
        ("steps", _memory_bars),
        ("growth", _growth_lines),
        ("hadamard", _transform_lines),
    ]
    for axes, (part, draw) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        section = document["sections"].get(part)
        if section and section["status"] == "ok":
            draw(axes, section["result"])
        else:
            axes.text(
                0.5,
                0.5,
                f"{part}: not measured",
                ha="center",
                va="center",
                transform=axes.transAxes,
            )
            axes.set_axis_off()
    figure.suptitle(title)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=100, metadata={"Software": None})
    return target.getvalue()


def _step_bars(axes: Any, result: Mapping[str, Any]) -> None:
    _bars(axes, result, lambda facts, limit: facts["ratio"])
    axes.axhline(1, color=BLACK, linewidth=1, linestyle="--")
    axes.set(title="Training step", ylabel="time / time without an adapter")


def _memory_bars(axes: Any, result: Mapping[str, Any]) -> None:
    _bars(axes, result, lambda facts, limit: (facts["saved_bytes"] - limit["saved_bytes"]) / 2**20)
    axes.axhline(0, color=BLACK, linewidth=1, linestyle="--")
    axes.set(title="Saved for backward, added by the adapter", ylabel="MiB")


def _bars(axes: Any, result: Mapping[str, Any], height: Callable[[Any, Any], float]) -> None:
    """Draw a group per adapter, with rlora and the other implementation per selection of layers."""
    from matplotlib.patches import Patch

    others = {"nola": REDRAW} | {name: f"{PEFT}{name}" for name in ADAPTERS if name != "nola"}
    series = [(package, label) for label in result for package in ("rlora", "other")]
    width = 0.8 / len(series)
    for position, (package, label) in enumerate(series):
        variants = result[label]["variants"]
        names = {name: name if package == "rlora" else others[name] for name in ADAPTERS}
        measured = [i for i, name in enumerate(ADAPTERS) if names[name] in variants]
        heights = [
            height(variants[names[name]], variants[LIMIT])
            for name in ADAPTERS
            if names[name] in variants
        ]
        axes.bar(
            [i + (position - (len(series) - 1) / 2) * width for i in measured],
            heights,
            width,
            color=[color_of(ADAPTERS[i]) if package == "rlora" else LIGHT for i in measured],
            hatch=HATCHES[list(result).index(label) % len(HATCHES)],
            edgecolor="white",
        )
    handles = [
        Patch(
            facecolor=DARK if package == "rlora" else LIGHT,
            hatch=HATCHES[list(result).index(label) % len(HATCHES)],
            edgecolor="white",
            label=f"{'PEFT*' if package == 'other' else 'rlora, in color'}: {label}",
        )
        for package, label in series
    ]
    axes.set_xticks(range(len(ADAPTERS)), [display_name(name) for name in ADAPTERS])
    axes.set_xlabel("* NOLA: bases regenerated in every layer, as in its official code", fontsize=8)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.3)  # room for the legend
    axes.legend(handles=handles, fontsize=8, ncols=2, loc="upper center")
    axes.grid(axis="y", alpha=0.3)


def _growth_lines(axes: Any, result: Mapping[str, Any]) -> None:
    points, fixed = result["tokens"]["points"], result["tokens"]["fixed"]
    tokens = [int(value) for value in points]
    for name, (color, marker) in LINES.items():
        ratios = [point[name]["ratio"] for point in points.values() if name in point]
        if ratios:
            axes.plot(tokens, ratios, color=color, marker=marker, label=display_name(name))
    axes.axhline(1, color=BLACK, linewidth=1, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.set_xticks(tokens, [f"{value:,}" for value in tokens])
    axes.set(
        title=f"One layer of width {fixed['width']}, forward and backward",
        xlabel="tokens T",
        ylabel="time / time of the frozen layer",
    )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _transform_lines(axes: Any, result: Mapping[str, Any]) -> None:
    colors = {"fwht": (VERMILION, "s"), "dense": (BLUE, "o"), "copy": (BLACK, "x")}
    for kind, style in zip(result, ("-", ":"), strict=False):
        orders = result[kind]["orders"]
        for name, (color, marker) in colors.items():
            known = [
                (int(n), order[name]["ns_per_number"])
                for n, order in orders.items()
                if name in order
            ]
            sizes, times = zip(*known, strict=True)
            label = {"fwht": "fast transform", "dense": "dense product x H", "copy": "copy"}[name]
            axes.plot(sizes, times, style, color=color, marker=marker, label=f"{label}, {kind}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(title="Walsh-Hadamard transform", xlabel="n", ylabel="nanoseconds per number")
    axes.legend(fontsize=8)
    axes.grid(which="both", alpha=0.3)
