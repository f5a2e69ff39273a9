"""Claims: of several processes that start the same multirun, one executes each run.

A claim is a locked file below the outputs. The operating system frees the lock when its process
ends, also when it is killed, so that no claim outlives its owner. On a network file system this
needs one with locks, as NFS 4 has.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

FOLDER = ".claims"  # hidden, so that it is no folder of runs


@contextmanager
def claim(config_hash: str, outputs: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the claim on a run during the block.

    Args:
        config_hash: Names the run.
        outputs: Folder of all run folders, which the processes share.
        wait: Wait while another process holds it.

    Yields:
        Whether this process holds the claim; False only without `wait`.
    """
    folder = outputs / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{config_hash}.lock", timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
