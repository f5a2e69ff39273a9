"""The identity of a run that is about to start."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlora.config.build import build
from rlora.config.config_hash import config_hash
from rlora.config.flatten import flatten
from rlora.data.locations import DATA_VARIABLE
from rlora.records.code_digest import code_digest
from rlora.records.identity import Identity, digest_files
from rlora.runs.resume import SavedRun
from rlora.tasks.base import Task

SECTIONS = ("model", "adapter", "regularizer")  # whose values may name files


def identify(
    composed: dict[str, Any], config: dict[str, Any], saved: SavedRun | None, folder: str
) -> Identity:
    """Return the identity of a run.

    Args:
        composed: The config as composed; its hash names the run.
        config: The config as the run uses it: what `ckpt_path` restores may name other files.
        saved: What `ckpt_path` names.
        folder: Folder of the run.

    Raises:
        ValueError: The task's data is missing, or an option of the task is invalid.
    """
    task: Task = build(config["task"])
    inputs = {"data": digest_files(task.input_files())}
    for section in SECTIONS:
        if paths := list(_paths(config.get(section) or {})):
            inputs[section] = digest_files(paths)
    if saved and (loaded := saved.adapter or saved.checkpoint):
        inputs["checkpoint"] = digest_files([loaded])
    return Identity(config_hash(composed, folder), inputs, code_digest(config))


def _paths(section: dict[str, Any]) -> Iterator[Path]:
    """Yield the files and folders that values of a section name.

    These are values with a slash or of a key `path`. They start at the current folder or at
    $RLORA_DATA. A hub id has a slash too, but names nothing on this machine.
    """
    for key, value in flatten(section).items():
        if isinstance(value, str) and ("/" in value or key.rpartition(".")[2] == "path"):
            roots = (Path(), Path(os.environ.get(DATA_VARIABLE) or ".").expanduser())
            places = (root / Path(value).expanduser() for root in roots)
            yield from [place for place in places if place.exists()][:1]
