"""An export written to a folder: tensors, config, card."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from rlora.export import truncate
from rlora.export.card import base_name, model_card
from rlora.export.merged import write_merged
from rlora.export.peft_format import peft_format
from rlora.runs.load import TrainedRun

FORMATS = ("peft", "merged")


def write(
    run: TrainedRun, folder: Path, form: str, name: str, rank: int | None, evaluate: bool
) -> list[str]:
    """Write a run in one of the formats; gives what is to be told.

    Args:
        run: What is exported.
        folder: Where to; it exists.
        form: "peft" or "merged".
        name: What the card calls it.
        rank: Cut updates to so many singular values; None: exactly what was trained.
        evaluate: Score what the cut loses.

    Raises:
        ValueError: the format cannot hold what was trained.
    """
    if rank is not None and (form != "peft" or rank < 1):
        raise ValueError(
            f"--rank {rank} cuts the updates of --format peft to a LoRA of at least one singular value"
        )
    notes: list[str] = []
    if form == "merged":
        write_merged(run, folder)
    else:
        if rank is not None:
            notes = truncate.cut_all(run, rank, evaluate=evaluate)
        base = base_name(run)
        _write_peft(
            folder,
            *peft_format(run.adapters, kind=run.kind, base=base, as_lora=rank is not None),
        )
    (folder / "README.md").write_text(model_card(run, name, form, notes), encoding="utf-8")
    return notes


def _write_peft(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )
