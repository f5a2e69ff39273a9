"""Small files from elsewhere, such as configs and manifests, read within limits.

Anybody can have written them. What is read here never runs code, never blocks, and takes less than
a second to refuse.
"""

import os
import stat
from pathlib import Path

LARGEST = 2**24  # bytes; the config of a run has about 10,000


def read_small_file(path: Path, limit: int = LARGEST) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file. Opening it does not block, as a pipe would.
        limit: Largest size, in bytes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no regular file, is larger than `limit`, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read: {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} cannot be read: it is not a regular file")
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path} cannot be read: it has more than {limit:,} bytes")
    return content


def read_foreign_text(path: Path) -> str:
    """Return the text of a small file in UTF-8; see `read_small_file`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or is not UTF-8.
    """
    try:
        return read_small_file(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: byte {error.start + 1} is not UTF-8") from error
