"""How fast, how small and how frugal the adapters are: `python -m benchmarks` measures and writes the results."""

import os

os.environ.setdefault(
    "KINETO_LOG_LEVEL", "99"
)  # before torch is imported: its profiler would talk over the progress
