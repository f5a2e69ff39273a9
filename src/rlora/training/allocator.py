"""Memory that one training step frees and the next one asks for again."""

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc
OWN_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Let the process keep the memory that tensors on the CPU give back, instead of returning it to the system.

    By default glibc takes every large block from the system and gives it back when it is freed, so that each training
    step faults all the pages of its activations in anew, zeroed by the kernel. Kept, they are there for the next step.

    Does nothing without glibc, or where the environment has settings of its own for the allocator, which it keeps.

    Returns:
        Whether the memory is kept from now on.
    """
    if not _has_glibc() or any(name.startswith(OWN_SETTINGS) for name in os.environ):
        return False
    malloc = ctypes.CDLL(None)
    # -1: never trim; 0: no block gets a mapping of its own. mallopt gives 1 where it succeeds.
    return bool(malloc.mallopt(M_MMAP_MAX, 0)) and bool(malloc.mallopt(M_TRIM_THRESHOLD, -1))


def _has_glibc() -> bool:
    with contextlib.suppress(
        AttributeError, ValueError, OSError
    ):  # no confstr, or it knows no such name
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    return False
