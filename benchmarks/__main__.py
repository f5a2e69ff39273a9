"""Command line: measure the parts, write the results after each, and sum up."""

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


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Measure speed, memory and file sizes."
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--only", metavar="PART,...", help=f"some of {', '.join(PARTS)}; the others' results stay"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny shapes: shows that the code works, measures nothing",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results (docs/results/speed; outputs/bench if --quick)",
    )
    parser.add_argument("--threads", type=int, help="threads of torch on the CPU")
    parser.add_argument("--rounds", type=int, help="rounds of the parts steps and large")
    parser.add_argument(
        "--batch", type=int, help="sequences a step in the part large, for all models"
    )
    chosen = parser.parse_args(words)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    for key in ("threads", "rounds", "batch"):
        if getattr(chosen, key) is not None and getattr(chosen, key) < 1:
            parser.error(f"--{key} must be at least 1")
    chosen.parts = _parts(parser, chosen)
    chosen.out = chosen.out or ROOT / ("outputs/bench" if chosen.quick else "docs/results/speed")
    return chosen


def _parts(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> list[str]:
    here = [name for name in PARTS if name != "large" or chosen.device == "cuda" or chosen.quick]
    if chosen.only is None:
        return here
    asked = chosen.only.split(",")
    if wrong := [name for name in asked if name not in here]:
        parser.error(
            f"--only: {', '.join(wrong)} is not a part here: choose among {', '.join(here)}"
        )
    return [name for name in here if name in asked]


def settings_for(chosen: argparse.Namespace) -> Settings:
    """The settings with the command line's changes."""
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
    """One section: the results of a part, or its error, with all that tells how it was measured."""
    gc.collect()
    gc.freeze()  # what lives from here on is not looked through again before every round
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
    except Exception as error:  # recorded, so that the other parts still run; the exit code tells
        progress.console.print(traceback.format_exc(), markup=False, highlight=False)
        section |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    return section | {"seconds": round(time.monotonic() - start, 1)}


def _failures(result: Any) -> bool:
    """Whether an "error" stands anywhere in a result."""
    if not isinstance(result, Mapping):
        return False
    return "error" in result or any(_failures(value) for value in result.values())


def write_all(document: results.Document, folder: Path) -> None:
    """Write the JSON, the page and the plot."""
    stem = document["device"]
    results.write_document(document, folder / f"{stem}.json")
    write_atomically(folder / f"{stem}.md", markdown(document, stem).encode())
    write_atomically(folder / f"{stem}.png", png(document, device_of(document)))


def main(words: Sequence[str] | None = None) -> int:
    """Measure; 0 if every part went through."""
    chosen = arguments(words)
    keeps_memory = machine.keep_freed_memory()
    _quieten()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    progress = Progress(Console())
    given = sys.argv[1:] if words is None else list(words)
    command = " ".join(["python -m benchmarks", *_without_paths(given)])
    path = chosen.out / f"{chosen.device}.json"
    if chosen.only:
        try:
            document = results.to_continue(
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
        write_all(document, chosen.out)
    print_summary(document, chosen.parts, path, progress.console)
    return 1 if any(document["sections"][name]["status"] != "ok" for name in chosen.parts) else 0


def _quieten() -> None:
    quieten()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings(
        "ignore", category=UserWarning, module="peft"
    )  # of projections that are not saved


def _without_paths(words: Sequence[str]) -> list[str]:
    """The words without --out, whose folder is no part of how a number was made."""
    kept, skip = [], False
    for word in words:
        if not skip and not word.startswith("--out"):
            kept.append(word)
        skip = word == "--out"
    return kept


if __name__ == "__main__":
    sys.exit(main())
