"""Part "decoding": E2E's test set generated in batches and one row at a time.

In batches every meaning representation is generated once. One row at a time, repeated ones are
generated again, as public scripts do it.
"""

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
    """Time both ways. One row at a time, only a sample is timed and scaled to all rows.

    Returns:
        {"data": real or synthetic, "rows": number of rows, "prompts": distinct ones, "sample": rows
        timed, "equal": texts of the sample that both ways agree on, "ways": {name: times,
        "seconds" for the whole set, "tokens_per_s"}}.
    """
    with tempfile.TemporaryDirectory() as path:
        scratch = Path(path)
        folder, real = _data(scratch, settings.synthetic)
        adapters, task, rows = _prepared(settings, folder, scratch)
        prompts = task.prompts()["test"]
        sample = rows[:: settings.every]
        wide = _writer(adapters, task, device, scratch)
        single = copy.copy(task)
        single.decoding = replace(task.generation, batch_size=1)
        narrow = _writer(adapters, single, device, scratch)
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
    return {"data": "the real test set" if real else "synthetic", **counts, "ways": times}


def _prepared(
    settings: DecodingSettings, folder: Path, scratch: Path
) -> tuple[AdapterSet, E2E, list[int]]:
    """Return a random decoder with LoRA, the task, and the index of each test row's prompt."""
    backbone = mini_decoder(
        dict(settings.config),
        kind="text",
        num_labels=0,
        seed=0,
        corpus=str(folder / FILES["train"]),
        column="ref",
        vocabulary=settings.vocabulary,
    )
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
    task.setup(backbone.processor, seed=0, cache_dir=scratch / "cache")
    adapters = inject(backbone.model, LoRA(targets="all-linear"))
    for parameter in adapters.adapter_parameters().values():
        torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(0))
    sources = [prompt.source for prompt in task.test_prompts["test"]]
    mrs = [entry.source for entry in task.entries(folder / FILES["test"])]
    return adapters, task, [sources.index(mr) for mr in mrs]


def _writer(
    adapters: AdapterSet, task: E2E, device: torch.device, scratch: Path
) -> Callable[[Sequence[Sequence[int]]], list[str]]:
    def write(prompts: Sequence[Sequence[int]]) -> list[str]:
        file = scratch / "texts.jsonl"
        file.unlink(missing_ok=True)  # otherwise the generator would resume from it
        generator = Generator(
            adapters, task, device=device, precision=Precision(), console=Console(quiet=True)
        )
        return generator.generate("test", prompts, file)

    return write


def _data(scratch: Path, synthetic: bool) -> tuple[Path, bool]:
    """Return a folder with E2E's files, and whether they are the real ones.

    Synthetic files of the same format replace them if RLORA_DATA does not have them.
    """
    real = Path(os.environ.get("RLORA_DATA", "")) / "e2e"
    if os.environ.get("RLORA_DATA") and real.is_dir() and not synthetic:
        return real, True
    folder = scratch / "e2e"
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
