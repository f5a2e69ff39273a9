"""What remains of a run that stopped: its error, its folder, and how to resume it."""

import contextlib
import re
import shutil
import traceback
from pathlib import Path
from typing import Any

from rlora.config.job import Job, how_to_rerun
from rlora.evaluation import prior_run
from rlora.io.atomic import write_atomically
from rlora.records.environment import is_first_process
from rlora.records.record import RECORD_FILE
from rlora.records.status import ERROR
from rlora.runs.resume import LAST_CHECKPOINT

HYDRA_FILES = {".hydra", "train.log"}  # in a run folder before the run starts


def discard(directory: Path, outputs: Path) -> None:
    """Remove the folder that Hydra made for a run which was refused before it started."""
    if not is_first_process() or {file.name for file in directory.iterdir()} - HYDRA_FILES:
        return
    shutil.rmtree(directory, ignore_errors=True)
    for folder in directory.resolve().parents:
        if outputs.resolve() not in folder.parents:
            return
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def how_to_resume(job: Job, config: dict[str, Any]) -> str:
    """Return what to type after an interruption."""
    if job.multirun:
        return how_to_rerun(skips=config["skip_finished"] is not False)
    if (job.directory / LAST_CHECKPOINT).is_file():
        return f"set {_argument('ckpt_path', job.directory)} to resume"
    if not config["train"] or config["ckpt_path"]:
        return "rerun the same command"
    prior = job.directory / prior_run.FOLDER
    if prior.is_dir() and not (prior / RECORD_FILE).is_file():
        return "rerun the same command, as the prior had not finished"
    if prior.is_dir():
        argument = _argument("hydra.run.dir", job.directory)
        return f"rerun the same command with {argument} to reuse its prior"
    return "there is nothing to resume, as no epoch was finished"


def _argument(key: str, path: Path) -> str:
    """Return `key=path` as a shell and Hydra read it."""
    plain = re.fullmatch(r"[\w./+-]+", str(path))
    return f"{key}={path}" if plain else f"'{key}=\"{path}\"'"


def write_error(directory: Path) -> None:
    """Write the traceback of the current error to the run folder."""
    with contextlib.suppress(OSError):  # a full disk must not hide the error itself
        write_atomically(directory / ERROR, traceback.format_exc().encode())
