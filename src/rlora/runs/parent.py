"""Processes that a command starts end with it, also where it is killed.

The launchers joblib and submitit_local, the processes of DDP, W&B's agents and torchrun start
processes that run a job. Where the command is killed, nobody stops them: they would train to the
end, or wait for ever, and keep their memory.
"""

import contextlib
import functools
import os
import threading
import time
from pathlib import Path

COMMAND = "RLORA_COMMAND_PID"  # inherited by all processes that a command starts
# Set by programs that start train.py as a command and should not be survived by it.
STARTERS = ("WANDB_SWEEP_ID", "TORCHELASTIC_RUN_ID")
SECONDS = 1.0  # between two looks


@functools.cache  # one watch per process, which may run several jobs
def end_with_command() -> None:
    """Register this process as the command, or end it soon after the command has ended.

    A thread watches the process id. PR_SET_PDEATHSIG of Linux does not serve: it sends the signal
    when the thread that started the process ends, and joblib starts processes from threads.
    """
    if (pid := _watched()) is not None:
        threading.Thread(target=_watch, args=(pid,), name="parent", daemon=True).start()


def _watched() -> int | None:
    """Return the process that this one should end with; None for a user's own command."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":  # runs elsewhere, and Slurm ends it
        return None
    command = int(os.environ.setdefault(COMMAND, str(os.getpid())))
    if command != os.getpid():
        return command
    return os.getppid() if any(name in os.environ for name in STARTERS) else None


def _watch(pid: int) -> None:
    while is_alive(pid):
        time.sleep(SECONDS)
    # no cleanup: nothing that this process could write would be complete
    os._exit(1)


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie, which only waits to be reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    with contextlib.suppress(OSError):  # there is no /proc but on Linux
        # "pid (name) state ..."; the name may contain parentheses
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
