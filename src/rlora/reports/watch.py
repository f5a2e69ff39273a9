"""The scores while runs finish, drawn anew again and again."""

import datetime
import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from rlora.reports.load import once
from rlora.reports.render import terminal
from rlora.reports.report import Report


def watch(
    ask: Callable[[], Report], seconds: float, console: Console, rounds: int | None = None
) -> None:
    """Draw the scores and how many runs there are, until Ctrl-C.

    Args:
        ask: Reads what is there now; its ValueErrors are shown, for the first run may yet come.
        seconds: Between two looks.
        console: Where to.
        rounds: Stop after so many; None: never.
    """
    with Live(console=console, auto_refresh=False) as live:
        done = 0
        try:
            while rounds is None or done < rounds:
                live.update(_drawn(ask), refresh=True)
                done += 1
                if rounds is None or done < rounds:
                    time.sleep(seconds)
        except KeyboardInterrupt:
            return


def _drawn(ask: Callable[[], Report]) -> RenderableType:
    now = datetime.datetime.now().astimezone().strftime("%H:%M:%S")
    try:
        report = ask()
    except ValueError as error:
        return Text(f"{now}  {error}")
    counts = f"{len(once(report.runs))} finished, {report.unfinished} unfinished, {len(report.problems)} left out"
    return Group(terminal(report.sheets[0]), Text(f"{now}  {counts}; Ctrl-C ends"))
