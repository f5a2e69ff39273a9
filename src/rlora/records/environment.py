"""Facts about the machine and the software of a run.

torch and Lightning are imported where they are needed, so that reading records stays light.
"""

import contextlib
import gc
import platform
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from rlora.records.record import Environment

if TYPE_CHECKING:
    import torch

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


def describe_environment(device: "torch.device", precision: str) -> Environment:
    """Describe where this process runs, with its peak memory so far."""
    import torch

    on_gpu = device.type == "cuda"
    cpu = f"{device.type} ({platform.processor() or 'unnamed'})"
    commit, dirty = git_state()
    return Environment(
        host=socket.gethostname(),
        platform=f"{platform.platform()}, Python {platform.python_version()}",
        device=torch.cuda.get_device_name(device) if on_gpu else cpu,
        precision=precision,
        threads=torch.get_num_threads(),
        peak_memory_mib=peak_memory_mib(),
        peak_device_memory_mib=torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else None,
        git_commit=commit,
        git_dirty=dirty,
        versions=package_versions(),
    )


def peak_memory_mib() -> float:
    """Return the largest resident size of this process so far, in MiB."""
    # On Linux, fork and exec pass the parent's peak on to the child's getrusage. The high-water
    # mark in /proc belongs to the running program alone.
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        match = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
        if match:
            return int(match[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux KiB


def reset_peak_memory() -> None:
    """Restart the peak memory measurements, as a multirun runs several jobs in one process."""
    import torch

    gc.collect()  # models of earlier jobs stay alive in reference cycles
    with contextlib.suppress(OSError):  # only Linux can
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def git_state() -> tuple[str | None, bool | None]:
    """Return the commit of the source tree and whether tracked files differ from it.

    Outside a checkout both are None.
    """
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the version of each of these packages that is installed."""
    versions = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def is_first_process() -> bool:
    """Return whether this process prints and writes: the only one, or the first of several."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0
