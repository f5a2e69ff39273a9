"""A live view of the scores while runs finish."""

import datetime
import time
from collections.abc import Callable, Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from rlora.reports.load import unique_runs
from rlora.reports.report import Report
from rlora.reports.terminal import view


def watch(
    make: Callable[[], Report], seconds: float, console: Console, rounds: int | None = None
) -> None:
    """Show the scores and the number of runs until Ctrl-C.

    A terminal shows the newest update in place. A file gets each update as it comes: the table
    when it has changed, and a line with the time.

    Args:
        make: Loads the runs that exist now and returns their report. A ValueError is shown and
            does not end the view: the first run may not have finished yet.
        seconds: Time between two updates.
        console: Console of the view.
        rounds: Number of updates; None means no limit.
    """
    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                for table, line in _updates(make, seconds, console.width, rounds):
                    live.update(Group(table, line), refresh=True)
        else:
            shown = ""
            for table, line in _updates(make, seconds, console.width, rounds):
                shown = _print_update(console, table, line, shown)
    except KeyboardInterrupt:
        return


def _print_update(console: Console, table: RenderableType, line: Text, shown: str) -> str:
    """Print a table unless it was shown before, and the line; return the text of the table."""
    with console.capture() as capture:
        console.print(table)
    if capture.get() != shown:
        console.print(table)
    console.print(line)
    console.file.flush()
    return capture.get()


def _updates(
    make: Callable[[], Report], seconds: float, width: int, rounds: int | None
) -> Iterator[tuple[RenderableType, Text]]:
    """Yield the table and the line of each update, with a pause between two of them."""
    done = 0
    while rounds is None or done < rounds:
        if done:
            time.sleep(seconds)
        now = datetime.datetime.now().astimezone().strftime("%H:%M:%S")
        try:
            report = make()
        except ValueError as error:
            yield Text(), Text(f"{now}  {error}")
        else:
            finished = f"{len(unique_runs(report.scores))} finished"
            others = f"{report.unfinished} unfinished, {len(report.skipped)} skipped"
            line = Text(f"{now}  {finished}, {others}; Ctrl-C to stop")
            yield view(report.tables[0], width), line
        done += 1
