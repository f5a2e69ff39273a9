"""What the console shows while measuring."""

import time

from rich.console import Console

from benchmarks.timing import Say


class Progress:
    """Lines of (elapsed time, part, what is being done).

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line."""
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        self.console.print(f"[dim]{minutes:3d}:{seconds:02d}[/dim]  {text}", highlight=False)

    def of(self, part: str) -> Say:
        """A `say` that puts a part's name first."""
        return lambda text: self.say(f"[bold]{part}[/bold]: {text}")


def within(say: Say, place: str) -> Say:
    """A `say` that puts a place inside the part first."""
    return lambda text: say(f"{place}, {text}")
