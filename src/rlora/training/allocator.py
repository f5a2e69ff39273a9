"""The C allocator: keep the memory that training steps free and allocate again."""

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc
USER_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Let the process keep the memory of freed CPU tensors, instead of returning it to the system.

    By default glibc maps every large block and unmaps it when it is freed. Each training step then
    faults in all pages of its activations, zeroed by the kernel. Kept memory is reused by the next
    step.

    Does nothing without glibc, or where the environment configures the allocator.

    Returns:
        Whether the process keeps the memory.
    """
    if not _has_glibc() or any(name.startswith(USER_SETTINGS) for name in os.environ):
        return False
    malloc = ctypes.CDLL(None)
    # -1: never trim; 0: map no block separately. mallopt returns 1 on success.
    return bool(malloc.mallopt(M_MMAP_MAX, 0)) and bool(malloc.mallopt(M_TRIM_THRESHOLD, -1))


def _has_glibc() -> bool:
    # a system without confstr or without this name has another C library
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    return False
