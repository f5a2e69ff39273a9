"""Commands whose reader has gone, as in `... --help | head`."""

import subprocess
import sys

import pytest

from rlora.io.command import BROKEN_PIPE

COMMAND = "from rlora.io.command import run_command\nrun_command(lambda: {body})"


def run_without_reader(arguments, *, folder=None):
    """Return status and messages of a command whose output is a pipe that nobody reads."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    messages = process.stderr.read()
    process.stderr.close()
    return process.wait(timeout=60), messages


@pytest.mark.parametrize("body", ["print('short')", "print('long' * 100_000)"])
def test_a_command_without_a_reader_ends_without_a_message(body):
    status, messages = run_without_reader(["-c", COMMAND.format(body=body)])
    assert status == BROKEN_PIPE
    assert messages == ""


def test_another_broken_connection_is_an_error():
    body = "(_ for _ in ()).throw(BrokenPipeError('a server'))"
    finished = subprocess.run(
        [sys.executable, "-c", COMMAND.format(body=body)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 1
    assert "BrokenPipeError: a server" in finished.stderr


@pytest.mark.parametrize(
    ("body", "status"), [("None", 0), ("3", 3), ("__import__('sys').exit('error: x')", 1)]
)
def test_the_status_is_that_of_the_command(body, status):
    finished = subprocess.run(
        [sys.executable, "-c", COMMAND.format(body=body)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == status
    assert finished.stderr == ("error: x\n" if status == 1 else "")


def test_help_of_train(root):
    status, messages = run_without_reader(["train.py", "--help"], folder=root)
    assert status == BROKEN_PIPE
    assert messages == ""


@pytest.mark.parametrize(
    "script",
    [
        "train.py",
        "predict.py",
        "benchmarks/__main__.py",
        "src/rlora/export/__main__.py",
        "src/rlora/integrations/wandb_dashboards.py",
        "src/rlora/metrics/__main__.py",
        "src/rlora/reports/__main__.py",
    ],
)
def test_every_command_is_run_this_way(root, script):
    last = (root / script).read_text().rpartition('if __name__ == "__main__":')[2]
    assert last.strip().startswith("run_command(")
