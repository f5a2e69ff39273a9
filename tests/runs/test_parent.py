"""Processes of a command end with it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rlora.runs import parent

CHILD = """
import os, sys, time
from rlora.runs import parent
parent.SECONDS = 0.05
parent.end_with_command()
print(os.getpid(), flush=True)
time.sleep(60)
"""
# starts the child through another process, as submitit does, and waits
COMMAND = """
import subprocess, sys, time
from rlora.runs import parent
parent.end_with_command()
between = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
subprocess.Popen([sys.executable, "-c", between, sys.argv[1]])
time.sleep(60)
"""


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the time is up"
        time.sleep(0.02)


def processes_below(pid):
    """Return the ids of all descendants of a process."""
    rows = subprocess.check_output(["ps", "-eo", "pid=,ppid="], text=True).split()
    children = {}
    for child, of in zip(map(int, rows[::2]), map(int, rows[1::2]), strict=True):
        children.setdefault(of, []).append(child)
    found, todo = [], [pid]
    while todo:
        new = children.get(todo.pop(), [])
        todo += new
        found += new
    return found


@pytest.fixture
def environment(monkeypatch):
    """Run as a user's command: no variable of a parent is set."""
    parent.end_with_command.cache_clear()
    for name in (parent.COMMAND, "SUBMITIT_EXECUTOR", *parent.STARTERS):
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch
    parent.end_with_command.cache_clear()
    os.environ.pop(parent.COMMAND, None)


@pytest.mark.parametrize("reap", [True, False])
def test_a_process_ends_with_a_killed_command(environment, reap):
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, CHILD], stdout=subprocess.PIPE, text=True
    )
    child = int(command.stdout.readline())
    assert parent.is_alive(child)
    command.kill()
    if reap:
        command.wait()
    wait_until(lambda: not parent.is_alive(child))
    command.wait()
    command.stdout.close()


def test_a_users_command_watches_nothing(environment):
    parent.end_with_command()
    assert os.environ[parent.COMMAND] == str(os.getpid())
    assert parent._watched() is None


@pytest.mark.parametrize("starter", parent.STARTERS)
def test_an_agent_that_starts_the_command_is_watched(environment, starter):
    environment.setenv(starter, "x")
    assert parent._watched() == os.getppid()


def test_a_slurm_job_outlives_its_submission(environment):
    environment.setenv(parent.COMMAND, "1")
    environment.setenv("SUBMITIT_EXECUTOR", "slurm")
    assert parent._watched() is None
    environment.setenv("SUBMITIT_EXECUTOR", "local")
    assert parent._watched() == 1


@pytest.mark.cli
def test_a_killed_multirun_leaves_no_process(start, small_lexicon, tmp_path):
    command = start(
        "-m",
        "launcher=joblib",
        "seed=1,2",
        "model=tiny_encoder",
        "task=lexicon",
        f"task.path={small_lexicon}",
        "task.train_size=60",
        "trainer=cpu",
        "trainer.enable_progress_bar=false",
        "trainer.max_epochs=100000",
    )
    wait_until(lambda: len(list(tmp_path.rglob("last.ckpt"))) == 2, 240)
    processes = processes_below(command.pid)
    assert len(processes) >= 2
    command.send_signal(signal.SIGKILL)
    command.wait()
    wait_until(lambda: not any(map(parent.is_alive, processes)))
