"""The console output of a run: the lines at its start, the progress line and the closing table."""

import io
import logging
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console

from rlora.runs.console import print_start, print_summary, quieten
from rlora.training.callbacks.progress import ERASE, Progress

LABELS = ["backbone", "adapter", "task", "regularizer", "device", "run folder"]
RUN = (
    "model=tiny_encoder",
    "task.train_size=96",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "adapter.rank=4",
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def printed(write, *arguments, width=60):
    console = Console(file=io.StringIO(), width=width)
    write(*arguments, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [20, 60, 200])
def test_the_summary_never_truncates_the_run_folder(record, width):
    record.run.directory = "/outputs/" + "a-long-name/" * 20
    text = printed(print_summary, record, width=width)
    assert f"run folder   {record.run.directory}\n" in text
    assert "…" not in text


def test_the_start_is_six_lines(tiny_parts, tmp_path):
    parts = tiny_parts("adapter=lora", "adapter.rank=4", folder=tmp_path)
    folder = "/outputs/" + "a-long-name/" * 20
    lines = printed(print_start, parts, folder).splitlines()
    assert [line[:12].strip() for line in lines] == LABELS
    report = parts.adapters.report()
    assert f"tiny_encoder, {report.backbone:,} parameters" in lines[0]
    assert f"lora, {report.adapter:,} trainable parameters ({report.percent:.3g} %" in lines[1]
    assert "lexicon, rows: train 60, validation 29, test 30" in lines[2]
    assert lines[3].endswith("none")
    assert lines[4].endswith("cpu, precision 32-true")
    assert lines[5].endswith(folder)


# the progress line


@pytest.fixture
def trained(tiny_parts, tmp_path):
    """Function (stream, *overrides): the output of a training of two epochs of three steps."""

    def train(stream, *overrides, folder="run"):
        overrides = ("trainer.enable_progress_bar=true", "trainer.max_epochs=2", *overrides)
        parts = tiny_parts(*overrides, folder=tmp_path / folder)
        (progress,) = (c for c in parts.trainer.callbacks if isinstance(c, Progress))
        progress._stream = stream
        saved = parts.plan.saved
        parts.trainer.fit(parts.module, ckpt_path=saved.checkpoint if saved else None)
        parts.trainer.test(parts.module, verbose=False)
        return stream.getvalue()

    return train


def test_a_file_gets_one_line_per_epoch(trained):
    text = trained(io.StringIO())
    assert "\r" not in text
    first, second = text.splitlines()
    scores = r"loss \d\.\d{3}  validation/accuracy \d\.\d{4}"
    assert re.fullmatch(rf"epoch 1/2  step 3/6  \d:\d\d:\d\d left  {scores}", first)
    assert re.fullmatch(rf"epoch 2/2  step 6/6  trained in \d:\d\d:\d\d  {scores}", second)


def test_a_terminal_gets_one_line_for_the_run(trained):
    text = trained(Terminal())
    assert text.count("\n") == 1, "the line is redrawn in place, and left once"
    line = text.partition("\n")[0].split(ERASE)[-1]
    start = r"epoch 2/2  step 6/6  trained in \d:\d\d:\d\d  "  # visible on a narrow terminal
    assert re.match(start + r"\[#{20}\]  loss \d\.\d{3}", line)
    shown = [int(step) for step in re.findall(r"step (\d)/6", text)]
    assert shown == sorted(shown)
    assert not text.partition("\n")[2].strip(f"{ERASE}abcdefghijklmnopqrstuvwxyz 0123456789")


def test_a_resumed_run_continues_the_count(trained, tiny_parts, tmp_path):
    trained(io.StringIO(), "trainer.max_epochs=1")
    resumed = trained(
        io.StringIO(),
        "trainer.max_epochs=3",
        f"ckpt_path='{tmp_path / 'run'}'",
        folder="resumed",
    )
    steps = re.findall(r"epoch (\d)/3  step (\d)/9", resumed)
    assert steps == [("2", "6"), ("3", "9")]


def test_a_run_of_steps_has_no_number_of_epochs(trained):
    text = trained(io.StringIO(), "trainer.max_epochs=-1", "+trainer.max_steps=5")
    assert [re.match(r"epoch \d  step \d/5", line)[0] for line in text.splitlines()] == [
        "epoch 1  step 3/5",
        "epoch 2  step 5/5",
    ]


# the command line


def run_in_terminal(command, **options):
    """Run a command whose output is a terminal, and return the output."""
    reader, writer = pty.openpty()
    process = subprocess.Popen(command, stdout=writer, stderr=writer, **options)
    os.close(writer)
    chunks = []
    try:
        while chunk := os.read(reader, 2**16):
            chunks.append(chunk)
    except OSError:  # Linux reports the end of a closed terminal as an error
        pass
    finally:
        os.close(reader)
    return process.wait(60), b"".join(chunks).decode().replace("\r\n", "\n")


@pytest.mark.cli
def test_a_pipe_has_no_carriage_returns(train, tmp_path):
    run = tmp_path / ("a-long-name-" * 8)
    output = train(*RUN, f"hydra.run.dir={run}")
    lines = output.splitlines()
    assert "\r" not in output
    assert [line[:12].strip() for line in lines[:6]] == LABELS
    assert [line.partition("  ")[0] for line in lines[6:8]] == ["epoch 1/2", "epoch 2/2"]
    assert "lora on lexicon" in lines[8], "nothing else is printed before the closing table"
    assert lines[-1] == f"run folder   {run}"


@pytest.mark.cli
def test_a_terminal_has_one_progress_line(root, tmp_path, cache):
    paths = (f"paths.outputs={tmp_path}", f"paths.cache={cache}", f"hydra.run.dir={tmp_path}/run")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TERM": "xterm"}
    status, output = run_in_terminal(
        [sys.executable, "train.py", *RUN, *paths], cwd=root, env=environment
    )
    assert status == 0, output
    lines = output.rstrip("\n").split("\n")  # splitlines would split at carriage returns too
    (progress,) = (line for line in lines if "step " in line)
    assert progress.count(ERASE) >= 3
    assert "epoch 1/2  step 3/6" in progress
    assert "epoch 2/2  step 6/6" in progress.split(ERASE)[-1]
    assert lines[-1].endswith(f"{tmp_path}/run")


def test_messages_of_lightning_are_printed_once():
    quieten()
    assert not logging.getLogger("lightning").handlers  # Hydra's handler of the root prints them
    assert logging.getLogger("lightning").propagate
