"""Facts about the process: its peak memory, and what importing them costs."""

import subprocess
import sys

import numpy as np
import pytest

from rlora.records.environment import peak_memory_mib


def test_peak_memory_counts_freed_memory():
    before = peak_memory_mib()
    size = int(before * 2**20) + 64 * 2**20
    np.ones(size, dtype=np.uint8)
    assert peak_memory_mib() >= size / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux passes a parent's peak on")
def test_peak_memory_is_not_that_of_the_parent():
    code = "import rlora.records.environment as e; print(e.peak_memory_mib())"
    ballast = np.ones(2 * 2**30, dtype=np.uint8)
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert 10 < float(process.stdout) < ballast.nbytes / 2**20


def test_reading_records_imports_neither_torch_nor_lightning():
    code = (
        "import sys, rlora.records.environment, rlora.records.record, rlora.records.status, "
        "rlora.records.study; print([m for m in ('torch', 'lightning') if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
