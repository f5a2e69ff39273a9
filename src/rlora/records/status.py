"""The status of run folders: finished, failed or unfinished. Standard library only."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlora.records.record import RECORD_FILE

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
