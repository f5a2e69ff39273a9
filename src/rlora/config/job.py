"""A job: what is asked for beside the config, and whether it can be done at all."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """What Hydra tells about a job beside its config.

    Args:
        directory: Where the run writes.
        choices: Group to option.
        overrides: The `key=value` arguments of the command line.
        multirun: Whether it is one of several.
    """

    directory: Path
    choices: dict[str, str]
    overrides: list[str]
    multirun: bool = False


def check_job(config: dict[str, Any], job: Job) -> None:
    """Refuse settings that cannot work together, before anything heavy is loaded.

    Raises:
        ValueError: one sentence on what to change.
    """
    seed = config["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed!r} must be a whole number in 0..{2**32 - 1}")
    devices = config["trainer"].get("devices", 1)
    launched = any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS"))
    if job.multirun and devices not in (1, "1") and not launched:
        raise ValueError(
            f"a multirun with trainer.devices={devices} would run the whole sweep once a process: use one device, or "
            "start the processes with torchrun or Slurm"
        )
    dtype, precision = (
        config["model"].get("dtype", "float32"),
        str(config["trainer"].get("precision")),
    )
    if dtype != "float32" and not precision.endswith("mixed"):
        raise ValueError(
            f"model.dtype={dtype} needs mixed precision, for what trains stays in float32: set trainer=bf16 or "
            f"trainer.precision=bf16-mixed, not {precision}"
        )
    if config["predict"] and devices not in (1, "1"):
        raise ValueError(
            "predict=true needs trainer.devices=1: evaluate the run with train=false ckpt_path=<run folder>"
        )
