"""The frame of every command: it ends without a message where its reader has gone."""

import os
import select
import sys
from collections.abc import Callable

BROKEN_PIPE = 141  # the status of a program that SIGPIPE ended, as shells report it


def run_command(main: Callable[[], int | None]) -> None:
    """Run the main function of a command and exit with its status.

    Where the reader of the output has gone, as in `... --help | head`, the command ends without a
    message. A broken pipe or connection elsewhere is an error like any other.

    Args:
        main: The command; it may raise `SystemExit` itself.
    """
    try:
        try:
            sys.exit(main())
        finally:
            sys.stdout.flush()  # short output reaches the pipe here only
    except BrokenPipeError:
        if not reader_has_gone():
            raise
        # the interpreter flushes the streams once more at its exit
        silence = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            if _is_broken(stream.fileno()):
                os.dup2(silence, stream.fileno())
        sys.exit(BROKEN_PIPE)


def reader_has_gone() -> bool:
    """Return whether nothing reads standard output or standard error any more."""
    return any(_is_broken(stream.fileno()) for stream in (sys.stdout, sys.stderr))


def _is_broken(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)  # errors are reported without being asked for
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
