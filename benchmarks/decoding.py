"""Part "decoding": E2E's test set written in batches, each meaning representation once, and one row at a time."""

import copy
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.precision import Precision
from rich.console import Console

from benchmarks.settings import DecodingSettings
from benchmarks.timing import Say, compare, take_turns
from rlora.adapters import AdapterSet, inject
from rlora.adapters.lora import LoRA
from rlora.evaluation.generate import Generator
from rlora.models.mini import mini_decoder
from rlora.tasks.data_to_text import E2E

OURS, ROWS = "in batches, each once", "one row at a time, every row"
FILES = {"train": "trainset.csv", "validation": "devset.csv", "test": "testset_w_refs.csv"}


def measure(settings: DecodingSettings, device: torch.device, say: Say) -> dict[str, Any]:
    """Time both ways; "data": real or made up; of the second a sample of rows is timed, and scaled to all of them.

    Returns:
        {"data": ..., "rows": all, "prompts": distinct, "sample": rows timed, "equal": texts of the sample that are the
        same, "ways": {name: times of what was timed, "seconds" for the whole set, "tokens_per_s"}}.
    """
    with tempfile.TemporaryDirectory() as place:
        folder, real = _data(Path(place), settings.made_up)
        adapters, task, rows = _prepared(settings, folder, Path(place))
        prompts = task.prompts()["test"]
        sample = rows[:: settings.every]
        wide = _writer(adapters, task, device, Path(place))
        single = copy.copy(task)
        single.decoding = replace(task.generation, batch_size=1)
        narrow = _writer(adapters, single, device, Path(place))
        say(f"{len(prompts)} distinct prompts, and {len(sample)} of {len(rows)} rows one at a time")
        written = wide(prompts)
        equal = sum(
            text == written[row]
            for text, row in zip(narrow([prompts[r] for r in sample]), sample, strict=True)
        )
        actions: dict[str, Callable[[], object]] = {
            OURS: lambda: wide(prompts),
            ROWS: lambda: narrow([prompts[row] for row in sample]),
        }
        prepared = {name: (lambda action=action: action) for name, action in actions.items()}
        times = compare(take_turns(prepared, settings.rounds, device, say=say), OURS)
    scale = {OURS: 1.0, ROWS: len(rows) / len(sample)}
    tokens = {OURS: len(prompts) * settings.new_tokens, ROWS: len(sample) * settings.new_tokens}
    for name, facts in times.items():
        facts["seconds"] = facts["median_s"] * scale[name]
        facts["tokens_per_s"] = tokens[name] / facts["median_s"]
    counts = {"rows": len(rows), "prompts": len(prompts), "sample": len(sample), "equal": equal}
    return {"data": "the real test set" if real else "made up", **counts, "ways": times}


def _prepared(
    settings: DecodingSettings, folder: Path, place: Path
) -> tuple[AdapterSet, E2E, list[int]]:
    """A random decoder with LoRA, the task, and of each row of the test set its distinct prompt."""
    backbone = mini_decoder(
        dict(settings.config), kind="text", num_labels=0, seed=0, corpus=str(folder / FILES["train"]), column="ref",
        vocabulary=settings.vocabulary,
    )  # fmt: skip
    options = {"beams": settings.beams, "length_penalty": 0.9, "no_repeat_ngram_size": 4}
    decoding = {**options, "batch_size": settings.batch, "max_new_tokens": settings.new_tokens}
    task = E2E(
        name="e2e",
        folder="e2e",
        files=FILES,
        origin="",
        path=folder,
        decoding=decoding,
        train_examples=8,
    )
    task.setup(backbone.processor, seed=0, cache_dir=place / "cache")
    adapters = inject(backbone.model, LoRA(targets="all-linear"))
    for parameter in adapters.adapter_parameters().values():
        torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(0))
    sources = [prompt.source for prompt in task.test_prompts["test"]]
    mrs = [entry.source for entry in task.entries(folder / FILES["test"])]
    return adapters, task, [sources.index(mr) for mr in mrs]


def _writer(
    adapters: AdapterSet, task: E2E, device: torch.device, place: Path
) -> Callable[[Sequence[Sequence[int]]], list[str]]:
    def write(prompts: Sequence[Sequence[int]]) -> list[str]:
        file = place / "texts.jsonl"
        file.unlink(missing_ok=True)  # or it would be gone on with
        generator = Generator(
            adapters, task, device=device, precision=Precision(), console=Console(quiet=True)
        )
        return generator.generate("test", prompts, file)

    return write


def _data(place: Path, made_up: bool) -> tuple[Path, bool]:
    """E2E's folder, and whether it is the real one; made up in its format where that is not at hand, or asked for."""
    real = Path(os.environ.get("RLORA_DATA", "")) / "e2e"
    if os.environ.get("RLORA_DATA") and real.is_dir() and not made_up:
        return real, True
    folder = place / "e2e"
    folder.mkdir()
    names, foods = ("Aromi", "Bibimbap House", "Cotto", "Eagle"), ("pie", "rice", "pasta")
    mrs = [f"name[{name}], food[{food}]" for name in names for food in foods]
    rows = [
        f'"{mr}",{mr.split("]")[0][5:]} has food number {number}.'
        for mr in mrs
        for number in range(4)
    ]
    parts = {"train": rows[:32], "validation": rows[32:40], "test": rows[40:]}
    for split, some in parts.items():
        (folder / FILES[split]).write_text("\n".join(["mr,ref", *some, ""]))
    return folder, False
