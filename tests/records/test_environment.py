"""Facts about the process: its peak memory, and what importing them costs."""

import subprocess
import sys

import pytest

PEAK = "from rlora.records.environment import peak_memory_mib\n"


def output_of(code):
    """Run Python code in a new process, and return its output."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_peak_memory_counts_freed_memory():
    code = """
before = peak_memory_mib()
size = int(before * 2**20) + 64 * 2**20
b"1" * size
print(peak_memory_mib() >= size / 2**20)
"""
    assert output_of(PEAK + code) == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux passes a parent's peak on")
def test_peak_memory_is_not_that_of_the_parent():
    ballast = b"1" * 2**29
    assert 10 < float(output_of(PEAK + "print(peak_memory_mib())")) < len(ballast) / 2**20


def test_reading_records_imports_neither_torch_nor_lightning():
    code = """
import sys
import rlora.records.environment, rlora.records.record, rlora.records.status, rlora.records.study
print([name for name in ("torch", "lightning") if name in sys.modules])
"""
    assert output_of(code) == "[]"
