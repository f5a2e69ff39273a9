"""Several runs from one command: a line before each run, and a summary at the end."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from rlora.config.build import is_search
from rlora.records.status import (
    FAILED,
    FINISHED,
    UNFINISHED,
    RunStatus,
    run_folders,
    run_status,
    skipped_from,
)

SKIPPED = "skipped (finished earlier)"
SEARCH_RESULTS = "optimization_results.yaml"  # of Hydra's Optuna sweeper


class MultirunSummary(Callback):
    """Hydra's callback on a multirun.

    Before each run it prints the run's number, its overrides and the remaining time. At the end it
    counts the runs and lists the failed ones, which makes the exit status 1; in a search only if no
    trial has finished. Where all fail for one reason, that reason is the error.

    Launchers copy this object to the processes of the runs, so that what it knows at the start is
    all it keeps: what other runs have done since is read from their folders.
    """

    def __init__(self) -> None:
        self._total: int | None = None
        self._constant: set[str] = set()  # keys with one value for all runs
        self._started = 0.0

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Count the runs and start the clock."""
        self._total = count_runs(config)
        self._constant = constant_keys(config.hydra.overrides.task)
        self._started = time.time()

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Print the line of one run; a single run has none."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        overrides = list(config.hydra.overrides.task)
        swept = [item for item in overrides if item.partition("=")[0] not in self._constant]
        number = int(config.hydra.job.num) + 1
        parts = [f"[{number}/{self._total}]" if self._total else f"[{number}]"]
        parts += swept or overrides
        if (seconds := self._remaining(Path(config.hydra.sweep.dir))) is not None:
            parts.append(f"({timedelta(seconds=round(seconds))} left for all runs)")
        Console().print(" ".join(parts), highlight=False, markup=False, soft_wrap=True)

    def _remaining(self, folder: Path) -> float | None:
        """Return the remaining seconds at the pace so far; None before a run has ended."""
        if self._total is None:
            return None
        ended = [
            status for status in map(run_status, run_folders(folder)) if status.state != UNFINISHED
        ]
        executed = [status for status in ended if not _was_skipped(status)]
        if not executed:
            return None
        return (time.time() - self._started) / len(executed) * max(0, self._total - len(ended))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the summary."""
        folder = Path(config.hydra.sweep.dir)
        statuses = [run_status(path) for path in run_folders(folder)]
        if not statuses:  # a cluster has not started them yet
            return
        console = Console()
        counts = _counts(statuses)
        if self._total and (elsewhere := self._total - len(statuses)) > 0:
            counts += f", {elsewhere} executed by other processes"
        console.print(f"runs in {folder}: {counts}", highlight=False, soft_wrap=True)
        failed = [status for status in statuses if status.state == FAILED]
        if failed and len(failed) == len(statuses):
            # a search writes the options of its best trial, and none has a result
            (folder / SEARCH_RESULTS).unlink(missing_ok=True)
            same = len({status.reason for status in failed}) == 1
            reason = failed[0].reason.removeprefix("ValueError: ")
            sys.exit(f"error: {reason if same else f'all runs failed, the first one: {reason}'}")
        if failed:
            console.print(_table(failed))
        # options that fail are among what a search tries
        if failed and not is_search(config.hydra.get("sweeper")):
            sys.exit("error: some runs failed; rerun the same command to repeat only those")


def count_runs(config: DictConfig) -> int | None:
    """Return the number of runs of a sweep; None for a sweeper that does not say."""
    sweeper = config.hydra.sweeper
    if is_search(sweeper):
        return int(sweeper.n_trials)
    if not str(sweeper.get("_target_", "")).endswith(f".{BasicSweeper.__name__}"):
        return None
    overrides = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    overrides += config.hydra.overrides.task
    with contextlib.suppress(HydraException):  # an invalid sweep: the sweeper raises the error
        parsed = OverridesParser.create().parse_overrides(overrides)
        return sum(map(len, BasicSweeper.split_arguments(parsed, None)))
    return None


def constant_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys of the command line that are not swept."""
    with contextlib.suppress(HydraException):  # an invalid sweep: the sweeper raises the error
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        return {each.get_key_element() for each in parsed if not each.is_sweep_override()}
    return set()


def _counts(statuses: list[RunStatus]) -> str:
    states = Counter(SKIPPED if _was_skipped(status) else status.state for status in statuses)
    order = (FINISHED, SKIPPED, FAILED, UNFINISHED)
    return ", ".join(f"{states[state]} {state}" for state in order if states[state])


def _was_skipped(status: RunStatus) -> bool:
    """Return whether the folder holds the record of a run that finished in another folder."""
    return status.state == FINISHED and skipped_from(status.directory) is not None


def _table(failed: list[RunStatus]) -> Table:
    table = Table()
    table.add_column("failed run", overflow="fold")
    table.add_column("reason (traceback in error.log)", overflow="fold")
    for status in failed:
        table.add_row(status.directory.name, status.reason)
    return table
