"""Speed, memory and file sizes of the adapters. `python -m benchmarks` measures and writes them."""

import os

# Before torch is imported: its profiler would write log lines between those of the progress.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
