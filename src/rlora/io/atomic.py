"""Atomic writes: a file or a folder is complete or absent at its path.

All functions give the same guarantees:

- The content is written under a temporary hidden name in the same folder, synced to disk, and
  renamed.
- On any failure the old content stays and the temporary is removed. A killed process leaves the
  temporary behind.
- Temporary names are unique, so that concurrent writers never share one. The last rename wins.
- Permissions follow the umask, as with a plain `open`.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a whole file and return its path.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    with open_atomically(path) as file:
        file.write(content)
    return path


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing that replaces `path` when the block ends without an error.

    Args:
        path: Target file. Missing parent folders are created.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    temporary = _temporary_name(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a crash after the rename could leave an empty file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def write_folder_atomically(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Provide an empty folder that is renamed to `path` when the block ends without an error.

    An existing folder is renamed away, and removed after the new one is in place. A process that is
    killed between these two renames leaves both contents under hidden names, and none at `path`.

    Args:
        path: Target folder. Missing parent folders are created.
        replace: Replace an existing folder.

    Raises:
        OSError: a file cannot be written, for example because the disk is full; or `path` holds
            files and `replace` is false.
    """
    temporary = _temporary_name(path)
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                # libraries such as safetensors write files that only their owner can read
                file.chmod(temporary.stat().st_mode & 0o666)
            _sync(file)
        _sync(temporary)
        if replace:
            _replace_folder(temporary, path)
        else:
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _replace_folder(new: Path, path: Path) -> None:
    old = _temporary_name(path)
    try:
        path.rename(old)  # a rename cannot replace a folder that is not empty
    except FileNotFoundError:
        new.rename(path)
        return
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _temporary_name(path: Path) -> Path:
    """Return an unused hidden name in the same folder, as renames do not cross file systems."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
