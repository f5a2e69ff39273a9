"""Train and evaluate: python train.py adapter=rlora task=mnli (--help lists the options)."""

import errno
import os
import sys
import traceback
from pathlib import Path

import hydra
from omegaconf import DictConfig

from rlora.config.build import config_keys, explain_config_error, hydra_job, is_config_error

CONF = Path(__file__).resolve().parent / "conf"
# a process of several inherits the variable from the first one, which `main` sets there
WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1" and "LOCAL_RANK" not in os.environ


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def job(config: DictConfig) -> float | None:
    """Run one job; Hydra calls it with the composed config."""
    from rlora.runs import experiment

    return experiment.run(config, hydra_job())


def chosen_groups() -> dict[str, str]:
    """Return the groups on the command line with their options, such as adapter to lora."""
    arguments = (argument.partition("=") for argument in sys.argv[1:])
    return {group: option for group, _, option in arguments if option and (CONF / group).is_dir()}


def describe_config_error(error: Exception) -> str:
    """Return one sentence on an invalid override, with the nearest valid names."""
    groups = chosen_groups()
    swept = {group for group, option in groups.items() if "," in option}
    known = [f"{g}={o}" for g, o in groups.items() if (CONF / g / f"{o}.yaml").is_file()]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        keys = config_keys(hydra.compose("train", known))
    return explain_config_error(error, keys, swept)


def describe(error: Exception) -> str:
    """Return one sentence on an error; print the traceback where the input is not the cause."""
    if is_config_error(error):
        return describe_config_error(error)
    if not isinstance(error, ValueError | OSError):
        traceback.print_exception(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        file = error.filename or "while writing the run"
        return f"the disk is full ({file}): free some space or set paths.outputs"
    return " ".join(str(error).split()) or type(error).__name__


def main() -> None:
    """Run, and exit with one sentence where that fails."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints a traceback and exits itself
    try:
        job()
    except KeyboardInterrupt as error:  # says how to resume, once a run has started
        sys.exit(f"interrupted: {error}" if str(error) else "interrupted")
    except Exception as error:
        if WANTS_TRACEBACK:
            raise
        sys.exit(f"error: {describe(error)}")


if __name__ == "__main__":
    main()
