"""Where data lies on this machine."""

import os
from collections.abc import Sequence
from pathlib import Path

DATA_VARIABLE = "RLORA_DATA"


def data_folder(path: str | Path | None, name: str, files: Sequence[str], origin: str) -> Path:
    """Return the folder that holds these files: ``path``, or ``$RLORA_DATA/<name>``.

    Args:
        path: task.path.
        name: The folder's name below ``$RLORA_DATA``.
        files: What has to be in it.
        origin: Where one gets it, for the message.

    Raises:
        ValueError: there is no such folder, or a file is missing.
    """
    root = os.environ.get(DATA_VARIABLE)
    if path is None and not root:
        raise ValueError(
            f"no data: set task.path to the folder that holds {', '.join(files)} ({origin})"
        )
    folder = Path(path).expanduser() if path is not None else Path(str(root)).expanduser() / name
    if missing := next((file for file in files if not (folder / file).is_file()), None):
        told = f"task.path={path}" if path is not None else f"${DATA_VARIABLE}"
        raise ValueError(f"{told} has no {folder / missing}; it comes from {origin}")
    return folder
