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


@dataclass(frozen=True)
class Job:
    """What Hydra passes besides the config.

    Args:
        directory: Run folder.
        choices: Config group to option.
        overrides: The `key=value` arguments of the command line.
        multirun: Whether this is one job of a multirun.
    """

    directory: Path
    choices: dict[str, str]
    overrides: list[str]
    multirun: bool = False


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
    launched = any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS"))
    if job.multirun and devices not in (1, "1") and not launched:
        raise ValueError(
            f"trainer.devices={devices} is invalid in a multirun, as each process would repeat the "
            "whole sweep: set trainer.devices=1, or start the processes with torchrun or Slurm"
        )
    for key, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):  # JSON could not record it
            raise ValueError(
                f"{key}={value} is invalid: expected a finite number, or null for none"
            )
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
