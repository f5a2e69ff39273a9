"""How the runs below a folder ended, read from what they left there; no library but Python's own."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlora.records.record import RECORD_FILE

CONFIG, ERROR = "config.yaml", "error.log"  # written at the start of a run, and when it fails
FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"


@dataclass(frozen=True)
class RunStatus:
    """How a run ended.

    Args:
        directory: The run's folder.
        state: "finished" (results.json), "failed" (error.log) or "unfinished" (neither: it runs, or was killed).
        reason: Of a failed run: the last line of its traceback.
    """

    directory: Path
    state: str
    reason: str = ""


def run_folders(folder: Path) -> Iterator[Path]:
    """Folders of runs at any depth, in order; what a run keeps within its own folder, such as its prior, is no run."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".")
        )  # .hydra holds a config.yaml too
        if {RECORD_FILE, CONFIG, ERROR} & set(files):
            folders.clear()
            yield Path(place)


def run_status(directory: Path) -> RunStatus:
    """How the run of one folder ended."""
    if (directory / RECORD_FILE).is_file():
        return RunStatus(directory, FINISHED)
    error = directory / ERROR
    if error.is_file():
        lines = error.read_text(errors="replace").strip().splitlines()
        return RunStatus(directory, FAILED, lines[-1] if lines else "")
    return RunStatus(directory, UNFINISHED)
