"""Makes `benchmarks`, which lies beside the package and is not installed, importable however pytest is called."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
