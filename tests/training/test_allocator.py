"""The C allocator keeps freed memory; measured in subprocesses, as it cannot be undone."""

import json
import os
import platform
import subprocess
import sys

import pytest

from rlora.training import allocator

GLIBC = platform.libc_ver()[0] == "glibc"
LOOP = """
import json, resource, sys
import torch
from rlora.training.allocator import keep_freed_memory

def rounds(count):
    for _ in range(count):
        # 40 MiB each: above the sizes that glibc keeps by default
        tensors = [torch.empty(10 * 2**20).fill_(1.0) for _ in range(3)]

kept = sys.argv[1] == "keep" and keep_freed_memory()
rounds(10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
rounds(5)
print(json.dumps([kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


def faults(how, **settings):
    """(whether it says that memory is kept, page faults of 600 MiB allocated in all)."""
    own = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(allocator.USER_SETTINGS)
    }
    command = [sys.executable, "-c", LOOP, how]
    done = subprocess.run(
        command, env={**own, **settings}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_freed_memory_is_reused():
    kept, count = faults("keep")
    assert kept
    assert count < 1000


@pytest.mark.skipif(not GLIBC, reason="another C library")
@pytest.mark.parametrize(
    "setting",
    [
        {"MALLOC_TRIM_THRESHOLD_": "1000000"},
        {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"},
        {"LD_PRELOAD": "libnowhere.so"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_allocator_settings_of_the_environment_win(setting):
    kept, _ = faults("keep", **setting)
    assert not kept


def test_another_c_library_is_left_unchanged(monkeypatch):
    monkeypatch.setattr(allocator, "_has_glibc", lambda: False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("called the C library"))
    assert allocator.keep_freed_memory() is False


@pytest.mark.parametrize("fault", [ValueError, OSError, AttributeError])
def test_a_system_without_that_name_has_no_glibc(monkeypatch, fault):
    def confstr(_):
        raise fault

    monkeypatch.setattr(allocator.os, "confstr", confstr, raising=False)
    assert allocator._has_glibc() is False


def test_a_run_keeps_freed_memory(tiny_job, tmp_path, monkeypatch):
    from rlora.runs import experiment

    class Asked(Exception):
        """What the run stops with."""

    def asked():
        raise Asked

    monkeypatch.setattr(experiment, "keep_freed_memory", asked)
    config, job = tiny_job(folder=tmp_path)
    with pytest.raises(Asked):
        experiment.run(config, job)
