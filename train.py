"""Train and evaluate: python train.py adapter=rlora task=mnli (--help lists the options)."""

import errno
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import hydra
from omegaconf import DictConfig

from rlora.config.build import hydra_job
from rlora.config.explain import (
    compose_groups,
    explain_config_error,
    is_config_error,
    register_help,
    without_null_groups,
)
from rlora.config.job import how_to_rerun
from rlora.io.command import reader_has_gone, run_command
from rlora.runs import folder_names
from rlora.runs.parent import end_with_command

CONF = Path(__file__).resolve().parent / "conf"
# a process of several inherits the variable from the first one, which `main` sets there
WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1" and "LOCAL_RANK" not in os.environ


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def job(config: DictConfig) -> float | None:
    """Run one job; Hydra calls it with the composed config."""
    end_with_command()  # launchers start processes that call this function only
    from rlora.runs import experiment

    this = hydra_job()
    try:
        return experiment.run(config, this)
    except Exception as error:
        if not this.multirun:  # Hydra would print a line before our sentence
            fail(error)
        raise


def describe(error: Exception) -> str:
    """Return one sentence on an error; print the traceback where the input is not the cause."""
    if is_config_error(error):
        return explain_config_error(error, compose_groups(sys.argv[1:], CONF))
    if not isinstance(error, ValueError | OSError):
        traceback.print_exception(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        file = error.filename or "while writing the run"
        return f"the disk is full ({file}): free some space or set paths.outputs"
    return " ".join(str(error).split()) or type(error).__name__


def fail(error: Exception) -> NoReturn:
    """Exit with one sentence on an error, or raise it where its traceback is wanted."""
    if WANTS_TRACEBACK or (isinstance(error, BrokenPipeError) and reader_has_gone()):
        raise error
    sys.exit(f"error: {describe(error)}")


def after_interrupt() -> str:
    """Return what to type where no run says it, as the runs are in other processes."""
    if not {"-m", "--multirun"} & set(sys.argv):
        return ""
    return how_to_rerun(skips="skip_finished=false" not in map(str.lower, sys.argv))


def main() -> None:
    """Run, and exit with one sentence where that fails."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints a traceback and exits itself
    end_with_command()
    folder_names.register()
    register_help()
    sys.argv[1:] = without_null_groups(sys.argv[1:], CONF)
    try:
        job()
    except KeyboardInterrupt as error:  # says how to resume, once a run has started
        sys.exit(": ".join(filter(None, ["interrupted", str(error) or after_interrupt()])))
    except Exception as error:
        fail(error)


if __name__ == "__main__":
    run_command(main)
