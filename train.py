"""Train and evaluate: python train.py adapter=rlora task=mnli."""

import errno
import os
import sys
import traceback
from pathlib import Path

import hydra
from omegaconf import DictConfig

from rlora.config.build import config_keys, explain_config_error, hydra_job, is_config_error

CONF = Path(__file__).resolve().parent / "conf"
ASKED_FOR_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def job(config: DictConfig) -> float | None:
    """Run one job; Hydra calls it with the composed config."""
    from rlora.runs import experiment

    return experiment.run(config, hydra_job())


def chosen_groups() -> dict[str, str]:
    """The groups named on the command line, such as adapter=lora."""
    words = (word.partition("=") for word in sys.argv[1:])
    return {group: option for group, _, option in words if option and (CONF / group).is_dir()}


def tell_config_error(error: Exception) -> str:
    """One sentence on a wrong word, with the nearest valid ones under the groups chosen."""
    groups = chosen_groups()
    swept = {group for group, option in groups.items() if "," in option}
    known = [f"{g}={o}" for g, o in groups.items() if (CONF / g / f"{o}.yaml").is_file()]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        keys = config_keys(hydra.compose("train", known))
    return explain_config_error(error, keys, swept)


def tell(error: Exception) -> str:
    """One sentence on what went wrong."""
    if is_config_error(error):
        return tell_config_error(error)
    if not isinstance(error, ValueError | OSError):
        traceback.print_exception(error)  # not wrong input, but a fault of ours
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error.filename or 'while writing the run'}): free some of it or set paths.outputs"
    return " ".join(str(error).split()) or type(error).__name__


def main() -> None:
    """Run, and tell what went wrong in one sentence."""
    os.environ["HYDRA_FULL_ERROR"] = (
        "1"  # errors arrive here whole, instead of Hydra printing a traceback
    )
    try:
        job()
    except KeyboardInterrupt:
        sys.exit("interrupted: go on with ckpt_path=<run folder>")
    except Exception as error:
        if ASKED_FOR_TRACEBACK:
            raise
        sys.exit(f"error: {tell(error)}")


if __name__ == "__main__":
    main()
