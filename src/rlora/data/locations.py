"""The location of data on this machine."""

import os
from collections.abc import Sequence
from pathlib import Path

DATA_VARIABLE = "RLORA_DATA"


def data_folder(path: str | Path | None, name: str, files: Sequence[str], origin: str) -> Path:
    """Return the folder of these files: `path`, or `$RLORA_DATA/<name>`.

    Args:
        path: The setting task.path.
        name: Name of the folder below `$RLORA_DATA`.
        files: Files that must be in it.
        origin: Where to download them, for the message.

    Raises:
        ValueError: There is no such folder, or a file is missing.
    """
    root = os.environ.get(DATA_VARIABLE)
    if path is None and not root:
        raise ValueError(
            f"task.path=null is invalid: there is no data; set task.path to the folder with "
            f"{', '.join(files)} ({origin})"
        )
    folder = Path(path).expanduser() if path is not None else Path(str(root)).expanduser() / name
    if missing := next((file for file in files if not (folder / file).is_file()), None):
        setting = f"task.path={path}" if path is not None else f"${DATA_VARIABLE}"
        raise ValueError(f"{setting} has no {folder / missing}; download it from {origin}")
    return folder
