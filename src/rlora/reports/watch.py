"""A live view of the scores while runs finish."""

import datetime
import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from rlora.reports.load import unique_runs
from rlora.reports.render import terminal
from rlora.reports.report import Report


def watch(
    make: Callable[[], Report], seconds: float, console: Console, rounds: int | None = None
) -> None:
    """Show the scores and the number of runs until Ctrl-C.

    Args:
        make: Loads the runs that exist now and returns their report. A ValueError is shown and
            does not end the view: the first run may not have finished yet.
        seconds: Time between two updates.
        console: Console of the view.
        rounds: Number of updates; None means no limit.
    """
    with Live(console=console, auto_refresh=False) as live:
        done = 0
        try:
            while rounds is None or done < rounds:
                live.update(_view(make, console.width), refresh=True)
                done += 1
                if rounds is None or done < rounds:
                    time.sleep(seconds)
        except KeyboardInterrupt:
            return


def _view(make: Callable[[], Report], width: int) -> RenderableType:
    now = datetime.datetime.now().astimezone().strftime("%H:%M:%S")
    try:
        report = make()
    except ValueError as error:
        return Text(f"{now}  {error}")
    finished = len(unique_runs(report.scores))
    counts = f"{finished} finished, {report.unfinished} unfinished, {len(report.skipped)} skipped"
    return Group(terminal(report.tables[0], width), Text(f"{now}  {counts}; Ctrl-C to stop"))
