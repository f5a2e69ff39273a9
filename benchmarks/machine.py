"""Hardware and software that a part was measured with. The name of the host is left out."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from rlora.records.environment import git_state, package_versions
from rlora.training import allocator

PACKAGES = ("rlora", "torch", "transformers", "peft", "numpy", "safetensors")
# May differ between the parts of one measurement.
UNSTABLE = frozenset({"load_average", "git_commit", "git_dirty"})


def keep_freed_memory() -> bool:
    """Let the process keep freed memory, and return whether it does."""
    return allocator.keep_freed_memory() is not False


def environment(device: torch.device, keeps_memory: bool) -> dict[str, Any]:
    """Return device, threads, versions and the setting of the allocator."""
    commit, dirty = git_state()
    facts = {
        "device": device_name(device),
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "system": " ".join(part for part in (platform.system(), *platform.libc_ver()) if part),
        "python": platform.python_version(),
        "versions": package_versions(PACKAGES),
        "keep_freed_memory": keeps_memory,
        "git_commit": commit,
        "git_dirty": dirty,
        "load_average": round(os.getloadavg()[0], 2),
    }
    if device.type == "cuda":
        facts["cuda"] = torch.version.cuda
        facts["device_memory_gib"] = round(
            torch.cuda.get_device_properties(device).total_memory / 2**30, 1
        )
        facts["tf32"] = torch.backends.cuda.matmul.allow_tf32
    return facts


def device_name(device: torch.device) -> str:
    """Return the name of the GPU or CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_model()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
