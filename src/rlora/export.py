"""Take a trained model out of this house: python -m rlora.export RUN --out DIRECTORY."""

import argparse
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from rlora import restore
from rlora.adapters import AdapterSet, files, inject
from rlora.config import build
from rlora.console import quieten
from rlora.models import quantized
from rlora.models.backbone import Backbone

log = logging.getLogger(__name__)


def merged(run: Path, out: Path) -> Path:
    """Write backbone, adapter and head as one ordinary transformers directory, tokenizer included.

    W' = W + dW, added in float32 and kept in the backbone's dtype; tied weights stay tied. Of a quantised backbone W is
    what its few bits stand for, so that what was trained is what is written.

    Args:
        run: Run folder or adapter folder.
        out: The directory to write; it must not exist yet.

    Raises:
        ValueError: nothing trained lies in `run`, `out` exists, or the backbone cannot hold the sum.
    """
    if out.exists():
        raise ValueError(f"--out {out} exists already: give another place, or remove it")
    saved = restore.find_saved(str(run), resume=False)
    if saved.adapter is None:
        raise ValueError(f"{run} has no adapter folder: its training did not finish")
    backbone, adapters = _rebuilt(saved.config)
    files.load(adapters, saved.adapter, fingerprint=backbone.fingerprint)
    if was := quantized.dense(backbone.net):
        log.warning("W was held as %s: the sum is added to what that stands for, and written unquantised", was)
    if reason := adapters.mergeable():
        raise ValueError(f"{run} cannot be merged: {reason}")
    model: Any = adapters.unwrapped()
    model.config.use_cache = True  # as others expect it
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        model.save_pretrained(unfinished)
        backbone.tokenizer.save_pretrained(unfinished)
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return out


def _rebuilt(config: dict[str, Any]) -> tuple[Backbone, AdapterSet]:
    """The run's model with its adapters as they were before training."""
    task = build(config["task"])
    backbone: Backbone = build(config["model"], **task.head(), seed=config["seed"])
    head = backbone.head_parameters(task.trained_modules)
    return backbone, inject(backbone.net, build(config["adapter"]), seed=config["seed"], head=head)


def main(arguments: list[str] | None = None) -> int:
    """Export what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m rlora.export", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder or adapter folder")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--format", choices=["merged"], default="merged", help="one transformers model")
    given = parser.parse_args(arguments)
    quieten()
    try:
        with torch.no_grad():
            place = merged(given.run, given.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
