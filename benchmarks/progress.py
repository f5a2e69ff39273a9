"""Progress lines on the console."""

import time

from rich.console import Console

from benchmarks.timing import Say


class Progress:
    """Prints lines with the elapsed time.

    Args:
        console: Console to print to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line."""
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        self.console.print(f"[dim]{minutes:3d}:{seconds:02d}[/dim]  {text}", highlight=False)

    def of(self, part: str) -> Say:
        """Return a `say` that prefixes the name of a part."""
        return lambda text: self.say(f"[bold]{part}[/bold]: {text}")


def within(say: Say, prefix: str) -> Say:
    """Return a `say` that prefixes every text."""
    return lambda text: say(f"{prefix}, {text}")
