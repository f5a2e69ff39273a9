"""Option `--baseline`: training steps of this checkout and of another one, in turns.

Each checkout runs in a separate process with its own `benchmarks` and `rlora`. Only one of them
computes at a time, and the first place alternates, so both see the same state of the machine.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.report_tables import ratio, seconds
from benchmarks.settings import StepSettings
from benchmarks.timing import Say, rotated
from benchmarks.variants import KEPT, LIMIT, our_methods

HERE, BASELINE = "here", "baseline"


# Takes a request as `benchmarks.step_worker` describes it and returns seconds.
Timer = Callable[[tuple[str, str] | None], float]


class Worker:
    """The process of one checkout.

    Args:
        root: The checkout.
        device: "cpu" or "cuda".
        is_quick: Use the tiny shapes.
        threads: Number of torch's threads; 0 keeps torch's default.
    """

    def __init__(self, root: Path, device: str, *, is_quick: bool, threads: int) -> None:
        arguments = [device, "quick" if is_quick else "full", str(threads)]
        # -P: the script's folder stays off the path, whose `benchmarks` is this checkout's.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("step_worker.py")), *arguments],
            cwd=root,
            env=os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, request: tuple[str, str] | None) -> float:
        """Send a request, wait for the seconds.

        Raises:
            RuntimeError: The process has ended.
        """
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
        if not (reply := self._process.stdout.readline()):
            raise RuntimeError("--baseline is invalid: a checkout's process ended, see above")
        return float(reply)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def compare_checkouts(
    workers: Mapping[str, Timer], settings: StepSettings, say: Say
) -> list[dict[str, Any]]:
    """Time every adapter of this package on both checkouts.

    Returns:
        Per layers and adapter: {"layers", "adapter", "here" and "baseline": seconds of each round}.
    """
    results = []
    for layers in settings.targets:
        for adapter in (LIMIT, *our_methods(settings.ranks, ()), KEPT):
            say(f"{layers}, {adapter}")
            for worker in workers.values():
                worker((layers, adapter))
            rounds: dict[str, list[float]] = {name: [] for name in workers}
            for turn in range(settings.rounds):
                for name in rotated(list(workers), turn):
                    rounds[name].append(workers[name](None))
            results.append({"layers": layers, "adapter": adapter, **rounds})
    return results


def comparison_table(results: list[dict[str, Any]]) -> Table:
    """Return a table of medians and of the ratio here / baseline, with its range over rounds."""
    table = Table(title="Training step here and in the baseline, and here / baseline")
    for column in ("layers", "adapter", "baseline", "here", "ratio", "range"):
        justify: Any = "left" if column in ("layers", "adapter") else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    for row in results:
        ratios = [a / b for a, b in zip(row[HERE], row[BASELINE], strict=True)]
        table.add_row(
            row["layers"],
            row["adapter"],
            *(seconds(statistics.median(row[name])) for name in (BASELINE, HERE)),
            ratio(statistics.median(ratios)),
            f"{ratio(min(ratios))}-{ratio(max(ratios))}",
        )
    table.caption = f"`{LIMIT}` runs no adapter: its ratio is noise."
    return table
