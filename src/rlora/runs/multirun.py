"""Several runs from one command: told as a whole at the end, so that one that failed is not overlooked."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from rlora.records.record import read_record
from rlora.records.status import FAILED, FINISHED, UNFINISHED, RunStatus, run_folders, run_status

SKIPPED = "skipped, as they had finished before"


class MultirunSummary(Callback):
    """Hydra's callback at the end of a multirun: counts its runs and lists the failed, which makes exit status 1.

    Where all failed for one reason, that reason is the error.
    """

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the summary."""
        folder = Path(config.hydra.sweep.dir)
        ended = [run_status(place) for place in run_folders(folder)]
        if not ended:  # they run elsewhere, and have not begun
            return
        console = Console()
        console.print(f"runs in {folder}: {_counted(ended)}", highlight=False, soft_wrap=True)
        failed = [item for item in ended if item.state == FAILED]
        if len({item.reason for item in failed}) == 1 and len(failed) == len(ended):
            sys.exit(f"error: {failed[0].reason.removeprefix('ValueError: ')}")
        if failed:
            console.print(_table(failed))
            sys.exit("error: not all runs finished; the same command repeats those alone")


def _counted(ended: list[RunStatus]) -> str:
    states = Counter(SKIPPED if _was_skipped(item) else item.state for item in ended)
    order = (FINISHED, SKIPPED, FAILED, UNFINISHED)
    return ", ".join(f"{states[state]} {state}" for state in order if states[state])


def _was_skipped(item: RunStatus) -> bool:
    """A skipped run's folder holds the record of the run that finished elsewhere."""
    return (
        item.state == FINISHED
        and Path(read_record(item.directory).run.directory) != item.directory.resolve()
    )


def _table(failed: list[RunStatus]) -> Table:
    table = Table("failed run", "why (in full: error.log)", title_justify="left")
    for item in failed:
        table.add_row(item.directory.name, item.reason)
    return table
