"""The job: what Hydra passes besides the config, and a check of settings that depend on another."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    dtype = config["model"].get("dtype", "float32")
    precision = str(config["trainer"].get("precision"))
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
