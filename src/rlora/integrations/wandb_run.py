"""The W&B run of this process, if a logger started one.

W&B is not imported here, as most runs do not use it.
"""

import sys
from pathlib import Path
from typing import Any


def keep(file: Path) -> None:
    """Upload a file to the run, such as the record that reports read."""
    if (run := _run()) is not None:
        run.save(str(file), base_path=str(file.parent), policy="now")


def close(failed: bool) -> None:
    """Finish the run, as the next job of a multirun would join it otherwise."""
    if (run := _run()) is not None:
        run.finish(exit_code=1 if failed else 0)


def _run() -> Any:
    wandb = sys.modules.get("wandb")
    return None if wandb is None else wandb.run
