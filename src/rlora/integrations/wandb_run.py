"""The W&B run of this process, where a logger began one; W&B is not imported here, for most runs do without."""

import sys
from pathlib import Path
from typing import Any


def keep(file: Path) -> None:
    """Put a file beside the run, the record for reports to read."""
    if (run := _run()) is not None:
        run.save(str(file), base_path=str(file.parent), policy="now")


def close(failed: bool) -> None:
    """End the run, or the next one of a multirun would join it."""
    if (run := _run()) is not None:
        run.finish(exit_code=1 if failed else 0)


def _run() -> Any:
    wandb = sys.modules.get("wandb")
    return None if wandb is None else wandb.run
