"""Facts about the machine and the software of a run."""

import contextlib
import platform
import re
import resource
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from rlora.records.record import Environment

PACKAGES = (
    "rlora",
    "torch",
    "lightning",
    "transformers",
    "torchmetrics",
    "datasets",
    "hydra-core",
    "numpy",
    "wandb",
)


def describe_environment(device: torch.device, precision: str) -> Environment:
    """Describe where this process runs, with its peak memory so far."""
    on_gpu = device.type == "cuda"
    commit, dirty = git_state()
    return Environment(
        host=socket.gethostname(),
        platform=f"{platform.platform()}, Python {platform.python_version()}",
        device=torch.cuda.get_device_name(device)
        if on_gpu
        else f"{device.type} ({platform.processor() or 'unnamed'})",
        precision=precision,
        threads=torch.get_num_threads(),
        peak_memory_mib=peak_memory_mib(),
        peak_device_memory_mib=torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else None,
        git_commit=commit,
        git_dirty=dirty,
        versions={name: found for name in PACKAGES if (found := _version(name))},
    )


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, in MiB.

    Linux' getrusage would do only where a small process started this one: the peak of the parent is handed down to its
    child by fork and exec. The high-water mark of /proc belongs to the program that runs.
    """
    with contextlib.suppress(OSError):
        found = re.search(
            r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE
        )
        if found:
            return int(found[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux KiB


def reset_peak_memory() -> None:
    """Begin a new measurement, lest a run of a multirun inherit the peak of those before; Linux alone can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def git_state() -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it) of the source tree; (None, None) outside a checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def is_first_process() -> bool:
    """Whether this is the only process or the first of several: the one that prints and writes."""
    return getattr(rank_zero_only, "rank", 0) == 0
