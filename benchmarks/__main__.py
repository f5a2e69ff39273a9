"""Command line: measure the parts, write the results, and print a summary."""

import argparse
import datetime
import gc
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from benchmarks import (
    baseline,
    decoding,
    file_sizes,
    growth,
    hadamard,
    injecting,
    large,
    machine,
    reporting,
    results,
    steps,
)
from benchmarks.plots import png
from benchmarks.progress import Progress
from benchmarks.report import device_of, markdown
from benchmarks.settings import Settings, quick
from benchmarks.summary import print_summary
from rlora.io.atomic import write_atomically
from rlora.io.command import run_command
from rlora.runs.console import quieten

ROOT = Path(__file__).parents[1]
PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "steps": steps.measure,
    "files": file_sizes.measure,
    "growth": growth.measure,
    "hadamard": hadamard.measure,
    "inject": injecting.measure,
    "reports": reporting.measure,
    "decoding": decoding.measure,
    "large": large.measure,
}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = _parser()
    chosen = parser.parse_args(argv)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device=cuda is invalid: torch finds no GPU")
    for key in ("threads", "rounds", "batch"):
        if getattr(chosen, key) is not None and getattr(chosen, key) < 1:
            parser.error(f"--{key}={getattr(chosen, key)} is invalid: expected at least 1")
    if chosen.baseline and not (chosen.baseline / "benchmarks" / "steps.py").is_file():
        parser.error(f"--baseline={chosen.baseline} is invalid: expected a checkout of rlora")
    if chosen.baseline and chosen.only not in (None, "steps"):
        parser.error(f"--only={chosen.only} is invalid: --baseline compares the part steps only")
    chosen.parts = _parts(parser, chosen)
    chosen.out = chosen.out or ROOT / ("outputs/bench" if chosen.quick else "docs/results/speed")
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Measure speed, memory and file sizes of the adapters, and write the results.",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--only",
        metavar="PART,...",
        help=f"measure only these of {', '.join(PARTS)}, and keep the results of the others",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="use tiny shapes to check that the code runs; the numbers mean nothing",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results (default: docs/results/speed, outputs/bench with --quick)",
    )
    parser.add_argument("--threads", type=int, help="number of torch's CPU threads")
    parser.add_argument("--rounds", type=int, help="number of rounds of the parts steps and large")
    parser.add_argument(
        "--batch", type=int, help="sequences per step in the part large, for every model"
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="CHECKOUT",
        help="time training steps of this checkout and of another one in turns, print a table "
        "and write nothing",
    )
    return parser


def _parts(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> list[str]:
    """Return the parts to measure, in order; the true shapes of `large` need a GPU."""
    known = [name for name in PARTS if name != "large" or chosen.device == "cuda" or chosen.quick]
    if chosen.only is None:
        return known
    requested = chosen.only.split(",")
    if unknown := [name for name in requested if name not in known]:
        parser.error(f"--only={','.join(unknown)} is invalid: expected some of {', '.join(known)}")
    return [name for name in known if name in requested]


def settings_for(chosen: argparse.Namespace) -> Settings:
    """Return the settings with the changes of the command line."""
    settings = quick() if chosen.quick else Settings()
    if chosen.rounds:
        settings = replace(
            settings,
            steps=replace(settings.steps, rounds=chosen.rounds),
            large=replace(settings.large, rounds=chosen.rounds),
        )
    if chosen.batch:
        models = tuple(replace(model, batch=chosen.batch) for model in settings.large.models)
        settings = replace(settings, large=replace(settings.large, models=models))
    return settings


def measure_part(
    name: str,
    settings: Any,
    device: torch.device,
    keeps_memory: bool,
    command: str,
    progress: Progress,
) -> dict[str, Any]:
    """Return one section: the result of a part or its error, its settings and environment."""
    gc.collect()
    gc.freeze()  # every round collects garbage first; objects that live already are then skipped
    section: dict[str, Any] = {
        "status": "ok",
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "environment": machine.environment(device, keeps_memory),
        "settings": asdict(settings),
    }
    start = time.monotonic()
    try:
        section["result"] = PARTS[name](settings, device, progress.of(name))
        if _failures(section["result"]):
            section["status"] = "incomplete"
    except Exception as error:  # recorded, so that the other parts still run; the exit code is 1
        progress.console.print(traceback.format_exc(), markup=False, highlight=False)
        section |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    return section | {"seconds": round(time.monotonic() - start, 1)}


def _failures(result: Any) -> bool:
    """Return whether a result has an "error" at any depth."""
    if not isinstance(result, Mapping):
        return False
    return "error" in result or any(_failures(value) for value in result.values())


def write_page(document: results.Document, path: Path) -> None:
    """Write the page and the plot next to the JSON file."""
    write_atomically(path.with_suffix(".md"), markdown(document, path.stem).encode())
    write_atomically(path.with_suffix(".png"), png(document, device_of(document)))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and return 0 if no part failed."""
    chosen = arguments(argv)
    if chosen.baseline:
        return compare_with_baseline(chosen)
    keeps_memory = machine.keep_freed_memory()
    _quieten()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    progress = Progress(Console())
    argv = sys.argv[1:] if argv is None else list(argv)
    command = " ".join(["python -m benchmarks", *_without_paths(argv)])
    path = chosen.out / f"{chosen.device}.json"
    if chosen.only:
        try:
            document = results.document_to_update(
                path, chosen.device, chosen.quick, machine.environment(device, keeps_memory)
            )
        except ValueError as error:
            progress.console.print(f"error: {error}", markup=False, highlight=False)
            return 2
    else:
        document = results.new_document(chosen.device, chosen.quick)
    settings = settings_for(chosen)
    for number, name in enumerate(chosen.parts, 1):
        progress.say(f"part {number} of {len(chosen.parts)}: [bold]{name}[/bold]")
        section = measure_part(
            name, getattr(settings, name), device, keeps_memory, command, progress
        )
        document["sections"] = {
            part: section if part == name else document["sections"][part]
            for part in PARTS
            if part == name or part in document["sections"]
        }
        results.write_document(
            document, path
        )  # after each part: an interrupted run keeps its results
    write_page(document, path)
    print_summary(document, chosen.parts, path, progress.console)
    return 1 if any(document["sections"][name]["status"] != "ok" for name in chosen.parts) else 0


def compare_with_baseline(chosen: argparse.Namespace) -> int:
    """Time the steps of two checkouts in turns and print the comparison."""
    settings = settings_for(chosen).steps
    progress = Progress(Console())
    roots = {baseline.HERE: ROOT, baseline.BASELINE: chosen.baseline.resolve()}
    workers = {
        name: baseline.Worker(
            root, chosen.device, is_quick=chosen.quick, threads=chosen.threads or 0
        )
        for name, root in roots.items()
    }
    try:
        rows = baseline.compare_checkouts(workers, settings, progress.of("steps"))
    finally:
        for worker in workers.values():
            worker.close()
    progress.console.print(baseline.comparison_table(rows))
    return 0


def _quieten() -> None:
    quieten()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # PEFT warns of projections that are not saved, which is what is measured.
    warnings.filterwarnings("ignore", category=UserWarning, module="peft")


def _without_paths(argv: Sequence[str]) -> list[str]:
    """Drop --out: its folder does not affect the numbers, and names a private path."""
    kept, skip = [], False
    for argument in argv:
        if not skip and not argument.startswith("--out"):
            kept.append(argument)
        skip = argument == "--out"
    return kept


if __name__ == "__main__":
    run_command(main)
