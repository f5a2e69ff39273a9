"""A complete export in a folder: weights, config, tokenizer and model card."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from rlora.export.card import base_name, model_card
from rlora.export.merged import write_merged
from rlora.export.peft_format import peft_format
from rlora.export.truncate import truncate_all
from rlora.runs.load import TrainedRun

FORMATS = ("peft", "merged")


def write_export(
    run: TrainedRun,
    folder: Path,
    *,
    form: str,
    name: str,
    rank: int | None = None,
    evaluate: bool = True,
) -> list[str]:
    """Write a run in one of the formats, and return sentences on what the export changed.

    Args:
        run: The run; `rank` and `form="merged"` change its model.
        folder: An existing folder.
        form: "peft" or "merged".
        name: Name in the model card.
        rank: Truncate updates to this rank; None exports exactly what was trained.
        evaluate: With `rank`: score the run before and after truncation.

    Raises:
        ValueError: The format cannot represent the adapter.
    """
    if rank is not None and (form != "peft" or rank < 1):
        raise ValueError(f"--rank {rank} is invalid: expected 1 or more, with --format peft")
    notes: list[str] = []
    if form == "merged":
        write_merged(run, folder)
    else:
        if rank is not None:
            notes = truncate_all(run, rank, evaluate=evaluate)
        config, tensors = peft_format(
            run.adapters, kind=run.kind, base=base_name(run) or "", as_lora=rank is not None
        )
        _write_peft(folder, config, tensors)
        run.backbone.processor.save_pretrained(folder)
    (folder / "README.md").write_text(model_card(run, name, form, notes), encoding="utf-8")
    return notes


def _write_peft(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    text = json.dumps(config, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
