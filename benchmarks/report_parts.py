"""The text and tables of each part of the page."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.decoding import OURS
from benchmarks.report_tables import mebibytes, ratio, seconds, table
from benchmarks.variants import LIMIT

Result = Mapping[str, Any]
LABELS = {
    "tokens": "tokens T",
    "rank": "rank r",
    "num_bases": "number of bases k",
    "width": "width (in = out)",
}


def _explain_steps(settings: Result) -> list[str]:
    encoder, ranks = settings["encoder"], settings["ranks"]
    return [
        f"Forward and backward without an optimizer, of a RoBERTa with {encoder['layers']} layers "
        f"of width {encoder['hidden']}, on {settings['batch']} x {settings['length']} tokens in "
        f"float32 with dropout and SDPA; {settings['rounds']} rounds. Ranks: {_ranks(ranks)}.",
        "The head and the bias of the embeddings' LayerNorm train in all variants. "
        f"`{LIMIT}` trains nothing else, so it is the limit for an adapter that costs nothing. "
        "`nola (redraw)` regenerates its bases in every layer, forward and backward, as NOLA's "
        "official code does. `randlora (kept)` is `randlora` with `keep_delta=true`.",
        "",
        "*Floor*: the smallest ratio that the adapter's matrix products allow, "
        "1 + (F - F of the limit) / (rate t of the limit). F is counted by torch's "
        "FlopCounterMode. The rate is that of a large product, T x width by width x intermediate, "
        "which takes turns with the others. The rest of the time is memory traffic, thin products "
        "and Python.",
        "",
        "*Saved*: bytes that autograd saves for backward besides parameters and buffers, each "
        "storage once. *Held* and *peak*: bytes allocated since the start of the step, after "
        "forward and at the maximum. On a CPU these are sums over all allocations and releases "
        "that torch's profiler records in one step. They are reproducible, unlike the resident "
        "size of a process, and do not include scratch memory outside torch's allocator.",
    ]


def steps(result: Result, settings: Result) -> list[str]:
    """Return times and memory of training steps."""
    lines = _explain_steps(settings)
    for label, selection in result.items():
        rows = [
            (
                f"`{name}`",
                f"{v['trained']:,}",
                seconds(v["median_s"]),
                ratio(v["ratio"]),
                ratio(v["median_of_ratios"]),
                ratio(v["floor"]),
                mebibytes(v["saved_bytes"]),
                mebibytes(v["held_bytes"]),
                mebibytes(v["peak_bytes"]),
            )
            for name, v in selection["variants"].items()
        ]
        head = (
            "adapter",
            "trainable",
            "step",
            "/ limit",
            "by rounds",
            "floor",
            "saved, MiB",
            "held, MiB",
            "peak, MiB",
        )
        rate = selection["flops_per_s"] / 1e9
        adapted = (
            f"Adapted: {label} ({selection['layers']} layers). "
            f"Rate of a large product: {rate:.0f} GFLOP/s."
        )
        lines += ["", adapted, "", *table(head, rows)]
    return lines


def files(result: Result, settings: Result) -> list[str]:
    """Return sizes and loading times."""
    rows = [
        (
            f"`{name}`",
            f"{v['parameters']:,}",
            f"{v['bytes']:,}",
            f"{v['bytes'] / (4 * v['parameters']):.2f}",
            seconds(v["attach"]["median_s"]),
            seconds(v["fill"]["median_s"]),
        )
        for name, v in result.items()
    ]
    encoder = settings["encoder"]
    return [
        f"q and v of {encoder['layers']} layers of width {encoder['hidden']}; "
        f"ranks: {_ranks(settings['ranks'])}; medians of {settings['rounds']} rounds. "
        "*Attach*: load the adapter into a bare model, with its frozen matrices regenerated. "
        "*Fill*: load into a model that has the adapter already. "
        "*Projection saved*: PEFT's default, `save_projection=True`, writes the random matrices to "
        "the file.",
        "",
        *table(("adapter", "trainable", "file, bytes", "/ 4 bytes each", "attach", "fill"), rows),
    ]


def growth(result: Result, settings: Result) -> list[str]:
    """Return one table per size that varies."""
    lines = [
        "Forward and backward of one adapted linear layer in float32, divided by the time of the "
        f"frozen layer; {settings['rounds']} rounds. Ranks that do not vary: "
        f"{_ranks(settings['ranks'])}.",
    ]
    for name_of_sweep, sweep in result.items():
        fixed = ", ".join(f"{LABELS[name]} = {size}" for name, size in sweep["fixed"].items())
        names = [name for name in next(iter(sweep["points"].values())) if name != "frozen"]
        rows = [
            (
                value,
                seconds(point["frozen"]["median_s"]),
                *(ratio(point[name]["ratio"]) for name in names),
            )
            for value, point in sweep["points"].items()
        ]
        label = LABELS[name_of_sweep]
        head = (label, "frozen", *(f"`{name}`" for name in names))
        lines += ["", f"By {label} ({fixed}):", "", *table(head, rows)]
    return lines


def hadamard(result: Result, settings: Result) -> list[str]:
    """Return one table per dtype."""
    lines = [
        f"Nanoseconds per number, for rows of n numbers and 2^{settings['log2_numbers']} numbers "
        f"in total; {settings['rounds']} rounds. The dense product x @ H is measured up to "
        f"n = {settings['largest_dense']}. *GMA/s*: 10^9 multiply-adds per second, where a row of "
        "a transform counts as n times the sum of its factors' sizes.",
    ]
    for dtype, facts in result.items():
        names = list(dict.fromkeys(name for order in facts["orders"].values() for name in order))
        rows = [
            (n, *(_cell(order, name, "ns_per_number", 1) for name in names), *_against_dense(order))
            for n, order in facts["orders"].items()
        ]
        fit = facts["growth"]
        head = (
            "n",
            *(f"`{name}`" for name in names),
            "dense / fwht",
            "fwht, GMA/s",
            "dense, GMA/s",
        )
        lines += ["", f"{dtype}:", "", *table(head, rows), ""]
        lines.append(
            f"Least-squares fit: {fit['constant']:.3g} + {fit['slope']:.3g} log2 n nanoseconds per "
            f"number (R² = {fit['r2']:.3f}; largest deviation {100 * fit['worst']:.0f} %). Where "
            "the fit is good, the time of a row is proportional to n (constant + slope log2 n)."
        )
    return lines


def inject(result: Result, settings: Result) -> list[str]:
    """Return times of injecting adapters."""
    encoder = settings["encoder"]
    rows = [(f"`{name}`", seconds(v["median_s"])) for name, v in result.items()]
    return [
        f"Into q and v of {encoder['layers']} layers of width {encoder['hidden']}, with frozen "
        f"matrices regenerated; ranks: {_ranks(settings['ranks'])}; medians of "
        f"{settings['rounds']} rounds.",
        "",
        *table(("adapter", "time"), rows),
    ]


def reports(result: Result, settings: Result) -> list[str]:
    """Return times of the steps of a report."""
    rows = [(name, seconds(v["median_s"])) for name, v in result["steps"].items()]
    about = (
        f"{settings['runs']:,} synthetic runs, one folder each, {result['bytes'] / 2**20:.0f} MiB "
        f"of records; medians of {settings['rounds']} rounds."
    )
    return [about, "", *table(("step", "time"), rows)]


def decoding(result: Result, settings: Result) -> list[str]:
    """Return times of generating the texts of E2E's test set."""
    least = result["ways"][OURS]["seconds"]
    rows = [
        (name, f"{v['seconds']:,.0f} s", ratio(v["seconds"] / least), f"{v['tokens_per_s']:,.0f}")
        for name, v in result["ways"].items()
    ]
    about = (
        f"E2E's test set ({result['data']}): {result['prompts']} meaning representations in "
        f"{result['rows']:,} rows, {settings['beams']} beams, {settings['new_tokens']} tokens "
        f"each, LoRA merged. Batches of {settings['batch']} are compared with every "
        f"{settings['every']}th row one at a time, scaled to all rows. {result['equal']} of these "
        f"{result['sample']} texts equal those of the batches. Medians of {settings['rounds']} "
        "rounds."
    )
    return [about, "", *table(("way", "the whole set", "/ batches", "tokens/s"), rows)]


def large(result: Result, settings: Result) -> list[str]:
    """Return one table per model."""
    lines = [
        "Forward and backward without an optimizer: weights in bfloat16, adapters in float32, "
        f"autocast to bfloat16, SDPA; {settings['warm_up']} warm-up steps, {settings['rounds']} "
        f"timed steps, one adapter after the other. Ranks: {_ranks(settings['ranks'])}. *Peak*: "
        "maximum of the allocated memory in a step, including the model on a GPU.",
    ]
    for model in settings["models"]:
        variants = result[model["name"]]["variants"]
        recomputed = ", activations recomputed in backward" if model["checkpointing"] else ""
        rows = [(f"`{name}`", *_large_cells(v)) for name, v in variants.items()]
        about = (
            f"{model['name']}: {model['batch']} x {model['length']} tokens, "
            f"{', '.join(model['targets'])}{recomputed}."
        )
        lines += [
            "",
            about,
            "",
            *table(("adapter", "trainable", "step", "/ limit", "tokens/s", "peak, MiB"), rows),
        ]
    return lines


def _large_cells(v: Result) -> tuple[str, ...]:
    if "error" in v:
        return ("", f"failed: {v['error']}".replace("|", "/"), "", "", "")
    share = ratio(v["ratio"]) if "ratio" in v else ""
    return (
        f"{v['trained']:,}",
        seconds(v["median_s"]),
        share,
        f"{v['tokens_per_s']:,.0f}",
        mebibytes(v["peak_bytes"]),
    )


def _against_dense(order: Result) -> list[str]:
    gain = ratio(order["dense"]["median_s"] / order["fwht"]["median_s"]) if "dense" in order else ""
    return [gain, *(_cell(order, name, "multiply_adds_per_s", 1e-9) for name in ("fwht", "dense"))]


def _cell(order: Result, name: str, fact: str, scale: float) -> str:
    return f"{scale * order[name][fact]:.3g}" if name in order else ""


def _ranks(ranks: Result) -> str:
    names = {
        "lora": "LoRA",
        "rlora": "RLoRA",
        "nola": "NOLA",
        "vera": "VeRA",
        "randlora": "RandLoRA",
    }
    labels = [f"{names[name]} {ranks[name]}" for name in names]
    return f"{', '.join(labels)}; NOLA's k = {ranks['num_bases']}"


PARTS: dict[str, tuple[str, Callable[[Result, Result], list[str]]]] = {
    "steps": ("Training steps", steps),
    "files": ("Files", files),
    "growth": ("Growth", growth),
    "hadamard": ("Walsh-Hadamard transform", hadamard),
    "inject": ("Injecting adapters", inject),
    "reports": ("Reports", reports),
    "decoding": ("Decoding", decoding),
    "large": ("Published shapes", large),
}
