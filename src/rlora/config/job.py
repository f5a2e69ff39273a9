"""The job: what Hydra passes besides the config, and a check of settings that depend on another."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlora.config.flatten import flatten

# Values of trainer.precision that keep trainable parameters in float32, and their short names.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
SHORT_PRECISIONS = {"32": "32-true", "None": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
ENDLESS = -1  # Lightning's word for no limit


@dataclass(frozen=True)
class Job:
    """What Hydra passes besides the config.

    Args:
        directory: Run folder.
        choices: Config group to option.
        overrides: The `key=value` arguments of the command line.
        multirun: Whether this is one job of a multirun.
        search: Whether a search chose the options and needs the score to choose the next.
    """

    directory: Path
    choices: dict[str, str]
    overrides: list[str]
    multirun: bool = False
    search: bool = False


def how_to_rerun(*, skips: bool) -> str:
    """Return what to type after a multirun was interrupted.

    Args:
        skips: Whether the multirun skips runs that finished.
    """
    if skips:
        return "rerun the same command: runs that finished are skipped"
    return "rerun the same command with skip_finished=same_code, which skips runs that finished"


def number_of_tasks() -> int:
    """Return the number of processes of this job that torchrun or Slurm has started."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1)


def check_job(config: dict[str, Any], job: Job) -> None:
    """Check that settings fit each other, before data and weights are loaded.

    Args:
        config: Plain and resolved.
        job: The job of this config.

    Raises:
        ValueError: one sentence that says what to change.
    """
    seed = config["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed!r} is invalid: expected a whole number in 0..{2**32 - 1}")
    devices = config["trainer"].get("devices", 1)
    if job.multirun and devices not in (1, "1") and number_of_tasks() == 1:
        raise ValueError(
            f"trainer.devices={devices} is invalid in a multirun, as each process would repeat the "
            "whole sweep: set trainer.devices=1, or start the processes with torchrun or Slurm"
        )
    for key, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):  # JSON could not record it
            raise ValueError(
                f"{key}={value} is invalid: expected a finite number, or null for none"
            )
    if config["train"]:
        check_trainer(config["trainer"])
    for name, folder in config["paths"].items():
        if not isinstance(folder, str) or not folder:
            raise ValueError(f"paths.{name}={_word(folder)} is invalid: expected a folder")
    dtype = config["model"].get("dtype", "float32")
    precision = _check_precision(config["trainer"].get("precision"))
    if dtype != "float32" and not precision.endswith("mixed"):
        raise ValueError(
            f"trainer.precision={precision} is invalid with model.dtype={dtype}, as trainable "
            "parameters stay in float32: set trainer=bf16 or trainer.precision=bf16-mixed"
        )
    if config["predict"] and devices not in (1, "1"):
        raise ValueError(
            f"trainer.devices={devices} is invalid with predict=true: set trainer.devices=1, and "
            "predict from a finished run with train=false ckpt_path=<run folder>"
        )


def _check_precision(value: Any) -> str:
    """Return Lightning's full name of a precision that keeps trainable parameters in float32.

    Raises:
        ValueError: the precision casts them.
    """
    precision = SHORT_PRECISIONS.get(str(value), str(value))
    if precision not in PRECISIONS:
        raise ValueError(
            f"trainer.precision={value} is invalid: expected one of {', '.join(PRECISIONS)}, as "
            "trainable parameters stay in float32; set trainer.precision=bf16-mixed to compute in "
            "bfloat16, and model.dtype=bfloat16 to hold the frozen weights in it"
        )
    return precision


def check_trainer(trainer: dict[str, Any]) -> None:
    """Check the limits of training: Lightning fails late on some, and trains nothing on others.

    Args:
        trainer: The arguments of the trainer.

    Raises:
        ValueError: no epoch would be trained, or training would have no end.
    """
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps", ENDLESS)
    if steps != ENDLESS and not _is_whole(steps, 1):
        raise ValueError(
            f"trainer.max_steps={steps} is invalid: expected at least 1, or {ENDLESS} for no limit"
        )
    if epochs in (None, ENDLESS):
        if steps == ENDLESS:
            raise ValueError(
                f"trainer.max_epochs={_word(epochs)} is invalid without trainer.max_steps: "
                "expected a number of epochs; set one of the two"
            )
    elif not _is_whole(epochs, 1):
        raise ValueError(
            f"trainer.max_epochs={epochs} is invalid: expected at least 1; set train=false to "
            "evaluate without training"
        )
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        value = trainer.get(name, 1)
        if not _is_whole(value, 1) and not (name.startswith("check") and value is None):
            raise ValueError(f"trainer.{name}={_word(value)} is invalid: expected at least 1")
    for name in ("limit_train_batches", "val_check_interval"):
        value = trainer.get(name)
        if isinstance(value, int | float) and value <= 0:
            raise ValueError(
                f"trainer.{name}={value} is invalid: expected a number of batches, or a fraction "
                "above 0"
            )
    clip = trainer.get("gradient_clip_val")
    if isinstance(clip, int | float) and clip < 0:
        raise ValueError(
            f"trainer.gradient_clip_val={clip} is invalid: expected at least 0, or null for no "
            "clipping"
        )


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _word(value: Any) -> Any:
    return "null" if value is None else value
