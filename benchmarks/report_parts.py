"""What the page says of each part."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.decoding import OURS
from benchmarks.report_tables import mebibytes, ratio, seconds, table
from benchmarks.variants import LIMIT

Result = Mapping[str, Any]
WRITTEN = {
    "tokens": "tokens T",
    "rank": "rank r",
    "num_bases": "number of bases k",
    "width": "width (in = out)",
}


def steps(result: Result, settings: Result) -> list[str]:
    """Times and memory of training steps."""
    encoder, ranks = settings["encoder"], settings["ranks"]
    lines = [
        f"Forward and backward, without an optimizer, of a RoBERTa of {encoder['layers']} layers and width "
        f"{encoder['hidden']} on {settings['batch']} x {settings['length']} tokens in float32, with dropout and SDPA; "
        f"{settings['rounds']} rounds. Ranks: {_ranks(ranks)}.",
        f"In all of them the head and the bias of the embeddings' LayerNorm train; `{LIMIT}` has nothing else, so it "
        "is what a step costs however cheap the adapter. `nola (redraw)` draws its bases anew in every layer, forward "
        "and backward, as NOLA's official code does; `randlora (kept)` is `randlora` with `keep_delta=true`.",
        "",
        "*Floor*: the ratio below which the adapter's matrix products do not let it fall, 1 + (F - F of the limit) / "
        "(rate t of the limit), F counted by torch's FlopCounterMode, at the rate of a large product of T x width by "
        "width x intermediate that took its turn with the others; what lies above it is memory traffic, thin products "
        "and Python.",
        "",
        "*Saved*: what autograd keeps for backward beside parameters and buffers, each storage once. *Held* and "
        "*peak*: bytes the allocator has handed out beyond those before the step, after forward and at most. On a CPU "
        "these are the sums of all allocations and releases that torch's profiler records in one step (reproducible, "
        "unlike a process's resident size; scratch space outside torch's allocator is not in them).",
    ]
    for label, found in result.items():
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
            for name, v in found["variants"].items()
        ]
        head = (
            "adapter",
            "trained",
            "step",
            "/ limit",
            "by rounds",
            "floor",
            "saved, MiB",
            "held, MiB",
            "peak, MiB",
        )
        rate = found["flops_per_s"] / 1e9
        adapted = f"Adapted: {label} ({found['layers']} layers). A large product ran at {rate:.0f} GFLOP/s."
        lines += ["", adapted, "", *table(head, rows)]
    return lines


def files(result: Result, settings: Result) -> list[str]:
    """Sizes and loading times."""
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
        f"q and v of {encoder['layers']} layers of width {encoder['hidden']}; ranks: {_ranks(settings['ranks'])}. "
        f"Medians of {settings['rounds']}. *Attach*: a bare model gets the adapter from its file, the random structure "
        "drawn anew. *Fill*: a model that carries the adapter already is filled. *Projection saved*: PEFT's "
        "`save_projection=True`, its default, keeps the random matrices in the file.",
        "",
        *table(("adapter", "trained", "file, bytes", "/ 4 bytes each", "attach", "fill"), rows),
    ]


def growth(result: Result, settings: Result) -> list[str]:
    """One table for each size that was varied."""
    lines = [
        f"Forward and backward of one adapted linear layer in float32, divided by the frozen layer's own; "
        f"{settings['rounds']} rounds. Ranks where not varied: {_ranks(settings['ranks'])}.",
    ]
    for sweep, found in result.items():
        fixed = ", ".join(f"{WRITTEN[name]} = {size}" for name, size in found["fixed"].items())
        names = [name for name in next(iter(found["points"].values())) if name != "frozen"]
        rows = [
            (
                value,
                seconds(point["frozen"]["median_s"]),
                *(ratio(point[name]["ratio"]) for name in names),
            )
            for value, point in found["points"].items()
        ]
        head = (WRITTEN[sweep], "frozen", *(f"`{name}`" for name in names))
        lines += ["", f"By {WRITTEN[sweep]} ({fixed}):", "", *table(head, rows)]
    return lines


def hadamard(result: Result, settings: Result) -> list[str]:
    """One table for each dtype."""
    lines = [
        f"Rows of n numbers, 2^{settings['log2_numbers']} numbers in all, {settings['rounds']} rounds; nanoseconds for "
        f"each number. The dense product x @ H is taken up to n = {settings['largest_dense']}. *GMA/s*: thousand "
        "millions of multiply-adds a second, a transform counted as n times the sum of its factors' sizes a row.",
    ]
    for kind, found in result.items():
        names = list(dict.fromkeys(name for order in found["orders"].values() for name in order))
        rows = [
            (n, *(_cell(order, name, "ns_per_number", 1) for name in names), *_against_dense(order))
            for n, order in found["orders"].items()
        ]
        fit = found["growth"]
        head = (
            "n",
            *(f"`{name}`" for name in names),
            "dense / fwht",
            "fwht, GMA/s",
            "dense, GMA/s",
        )
        lines += ["", f"{kind}:", "", *table(head, rows), ""]
        lines.append(
            f"Least squares: {fit['constant']:.3g} + {fit['slope']:.3g} log2 n nanoseconds a number (R² = "
            f"{fit['r2']:.3f}; largest deviation {100 * fit['worst']:.0f} %). Where that line fits, a row takes time "
            "in proportion to n (constant + slope log2 n)."
        )
    return lines


def inject(result: Result, settings: Result) -> list[str]:
    """Times of putting adapters in."""
    encoder = settings["encoder"]
    rows = [(f"`{name}`", seconds(v["median_s"])) for name, v in result.items()]
    return [
        f"Into q and v of {encoder['layers']} layers of width {encoder['hidden']}, the random structure drawn anew; "
        f"ranks: {_ranks(settings['ranks'])}; medians of {settings['rounds']}.",
        "",
        *table(("adapter", "time"), rows),
    ]


def reports(result: Result, settings: Result) -> list[str]:
    """Times of a report's steps."""
    rows = [(name, seconds(v["median_s"])) for name, v in result["steps"].items()]
    about = f"{settings['runs']:,} made-up runs, {result['bytes'] / 2**20:.0f} MiB of records in folders of their own"
    return [f"{about}; medians of {settings['rounds']}.", "", *table(("step", "time"), rows)]


def decoding(result: Result, settings: Result) -> list[str]:
    """Times of writing E2E's test set."""
    least = result["ways"][OURS]["seconds"]
    rows = [
        (name, f"{v['seconds']:,.0f} s", ratio(v["seconds"] / least), f"{v['tokens_per_s']:,.0f}")
        for name, v in result["ways"].items()
    ]
    about = (
        f"E2E's test set ({result['data']}): {result['prompts']} meaning representations in {result['rows']:,} rows; "
        f"beam {settings['beams']}, {settings['new_tokens']} tokens each, LoRA merged. Batches of {settings['batch']}, "
        f"against every {settings['every']}th row one at a time, scaled to all rows; {result['equal']} of these "
        f"{result['sample']} texts equal the batched ones. Medians of {settings['rounds']}."
    )
    return [about, "", *table(("way", "the whole set", "/ batches", "tokens/s"), rows)]


def large(result: Result, settings: Result) -> list[str]:
    """One table for each model."""
    lines = [
        "Forward and backward, without an optimizer: weights in bfloat16, adapters in float32, autocast to bfloat16, "
        f"SDPA; {settings['warm_up']} steps to warm up, {settings['rounds']} timed, one adapter after the other. "
        f"Ranks: {_ranks(settings['ranks'])}. *Peak*: most memory allocated in a step, the model included on a GPU.",
    ]
    for model in settings["models"]:
        found = result[model["name"]]
        again = ", activations recomputed in backward" if model["checkpointing"] else ""
        rows = [(f"`{name}`", *_large_cells(v)) for name, v in found["variants"].items()]
        about = f"{model['name']}: {model['batch']} x {model['length']} tokens, {', '.join(model['targets'])}{again}."
        lines += [
            "",
            about,
            "",
            *table(("adapter", "trained", "step", "/ limit", "tokens/s", "peak, MiB"), rows),
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
    told = [f"{names[name]} {ranks[name]}" for name in names]
    return f"{', '.join(told)}; NOLA's k = {ranks['num_bases']}"


PARTS: dict[str, tuple[str, Callable[[Result, Result], list[str]]]] = {
    "steps": ("Training steps", steps),
    "files": ("Files", files),
    "growth": ("Growth", growth),
    "hadamard": ("Walsh-Hadamard transform", hadamard),
    "inject": ("Putting adapters in", inject),
    "reports": ("Reports", reports),
    "decoding": ("Decoding", decoding),
    "large": ("True shapes", large),
}
