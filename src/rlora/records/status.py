"""The status of run folders: finished, failed or unfinished. Standard library only."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlora.records.record import RECORD_FILE, read_record

log = logging.getLogger(__name__)
CONFIG = "config.yaml"  # written at the start of a run
ERROR = "error.log"  # written when a run fails
FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"


@dataclass(frozen=True)
class RunStatus:
    """Status of a run.

    Args:
        directory: The run's folder.
        state: "finished" (has results.json), "failed" (has error.log), or "unfinished" (has
            neither: it is running or was killed).
        reason: Last line of the traceback of a failed run.
    """

    directory: Path
    state: str
    reason: str = ""


def run_folders(folder: Path) -> Iterator[Path]:
    """Yield the run folders at any depth, sorted. A prior inside a run folder does not count."""
    for path, folders, files in os.walk(folder):
        # .hydra has a config.yaml too, and temporary folders are hidden
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if {RECORD_FILE, CONFIG, ERROR} & set(files):
            folders.clear()
            yield Path(path)


def run_status(directory: Path) -> RunStatus:
    """Return the status of one run folder."""
    if (directory / RECORD_FILE).is_file():
        return RunStatus(directory, FINISHED)
    error = directory / ERROR
    if error.is_file():
        lines = error.read_text(errors="replace").strip().splitlines()
        return RunStatus(directory, FAILED, lines[-1] if lines else "")
    return RunStatus(directory, UNFINISHED)


def skipped_from(directory: Path) -> Path | None:
    """Return the folder of the run whose record a skipped run's folder holds; None for others.

    Raises:
        ValueError: The folder's record cannot be read.
    """
    file = directory / RECORD_FILE
    if not file.is_file() or (directory / CONFIG).is_file():  # only a run writes its config
        return None
    original = Path(read_record(file).run.directory)
    return None if original == directory.resolve() else original


def original_path(path: Path, key: str) -> Path:
    """Return a path in the folder of a run, also where it is given in a skipped run's folder.

    A multirun skips a finished run by a copy of its record, without the run's other files.

    Args:
        path: Run folder, or something in it.
        key: The option that the path belongs to, for messages.

    Raises:
        ValueError: The path is in the folder of a skipped run, and the run itself is gone.
    """
    for folder in (path, *path.parents[:2]):
        original = skipped_from(folder)
        if original is None:
            continue
        if not original.is_absolute() or not (original / CONFIG).is_file():
            raise ValueError(
                f"{key}={path} is invalid: that run was skipped, as it had finished in {original}, "
                f"which is no run folder here; set {key} to that run's folder, or train it again "
                "with skip_finished=false"
            )
        log.warning("%s is the folder of a skipped run: using %s", folder, original)
        return original / path.relative_to(folder)
    return path
