"""The command line of predict.py: predictions of a trained run, row by row."""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rlora.config.build import build
from rlora.config.flatten import flatten
from rlora.evaluation.inputs import BY_SUFFIX, FORMATS, read_rows
from rlora.evaluation.outputs import check_output, open_output
from rlora.evaluation.predict import PredictedRow, Predictor, RowScores
from rlora.io.rows import open_input
from rlora.runs.console import quieten
from rlora.runs.load import load_run

HELP = """Predict rows with a trained run. Each prediction is written as soon as it is computed.

  python predict.py run=outputs/runs/lexicon-rlora/<time> input=rows.csv output=predictions.csv
  echo "a good film" | python predict.py run=<run folder> input=-

  run=         run folder or adapter folder
  input=       file, or - for standard input
  output=      file that ends in .csv or in .jsonl (JSON lines); by default - for JSON lines on
               standard output
  format=      of the input: text (a row per line, fields separated by tabs), tsv (a header,
               tabs, no quoting), csv (a header), jsonl (an object per line) or json (a list of
               objects); by default by the suffix, and text for standard input
  batch_size=  rows per batch, 32 by default
  draws=       samples of a PAC-Bayes classifier's posterior, 16 by default; 0 predicts with its
               mean
  device=      auto (default), cpu or cuda

A file is checked before its first row is predicted. All columns are kept in the output. Where the
rows have labels (or answers, or references), the task's scores are printed at the end.
"""


@dataclass(frozen=True)
class Arguments:
    """The `key=value` arguments of the command line.

    Args:
        run: Run folder or adapter folder.
        input: File, or "-" for standard input.
        output: File, or "-" for standard output; JSON lines or CSV, by its suffix.
        format: Of the input: one of `FORMATS`; by default by its suffix, and text for standard
            input.
        batch_size: Rows per batch.
        draws: Samples of the posterior of a PAC-Bayes run; 0 for its mean; None for the default.
        device: "cpu", "cuda" or "auto".

    Raises:
        ValueError: A value is out of range.
    """

    run: str
    input: str
    output: str = "-"
    format: str = ""
    batch_size: int = 32
    draws: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.input_format not in FORMATS:
            raise ValueError(
                f"format={self.format} is invalid: expected one of {', '.join(FORMATS)}"
                if self.format
                else f"input={self.input} has no known suffix: set format={', '.join(FORMATS)}"
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is invalid: expected at least 1")

    @property
    def input_format(self) -> str:
        """The input's format, "" where its suffix does not say."""
        if self.format or self.input == "-":
            return self.format or "text"
        return BY_SUFFIX.get(Path(self.input).suffix.lower(), "")


def parse_arguments(arguments: Sequence[str]) -> Arguments:
    """Return the arguments of the command line.

    Raises:
        ValueError: A key is unknown or missing, or its value has the wrong type.
    """
    keys = [each.name for each in fields(Arguments)]
    pairs = dict(argument.partition("=")[::2] for argument in arguments)
    if len(pairs) < len(arguments):
        raise ValueError("a key is given twice: give each of them once")
    if unknown := [key for key in pairs if key not in keys]:
        raise ValueError(f"{unknown[0]} is unknown: the keys are {', '.join(keys)}")
    if missing := [key for key in ("run", "input") if not pairs.get(key)]:
        raise ValueError(
            f"{missing[0]}= is missing: python predict.py run=<run folder> input=FILE, or input=-"
        )
    values: dict[str, Any] = dict(pairs)
    for key in ("run", "input", "output"):  # not every shell expands a ~ after the =
        if key in values:
            values[key] = os.path.expanduser(values[key])
    for key in ("batch_size", "draws"):
        if key in values and not values[key].isdecimal():
            raise ValueError(f"{key}={values[key]} is invalid: expected a whole number")
        values |= {key: int(values[key])} if key in values else {}
    return Arguments(**values)


def main(arguments: Sequence[str]) -> int:
    """Predict as the arguments say, and return the exit status: 1 on an error."""
    if {"--help", "-h"} & set(arguments):
        print(HELP, end="")
        return 0
    quieten()
    try:
        _predict(parse_arguments(arguments))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: an output file is written only when it is complete", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of standard output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _predict(arguments: Arguments) -> None:
    check_input(arguments.input)
    check_output(arguments.output, arguments.input)
    predictor = load_predictor(arguments)
    scores = RowScores(predictor.task)
    with _input(arguments) as stream:
        name = "standard input" if arguments.input == "-" else arguments.input
        found = read_rows(stream, arguments.input_format, predictor.fields, name)
        rows: Iterable[PredictedRow] = predictor.check(found)
        total = columns = None
        if Path(arguments.input).is_file():
            # A malformed row at the end of a file must not cost the predictions before it.
            rows = list(rows)
            total, columns = len(rows), _columns(rows)
        with open_output(arguments.output, columns) as write, _progress() as progress:
            bar = progress.add_task("predicted rows", total=total)
            remaining = iter(rows)
            while batch := list(itertools.islice(remaining, arguments.batch_size)):
                for row, answer in zip(batch, predictor.answer(batch), strict=True):
                    write(row.values, answer, row.location)
                    scores.add(row, answer)
                progress.advance(bar, len(batch))
    if (line := scores.text()) is not None:
        print(line, file=sys.stderr)


def _columns(rows: Iterable[PredictedRow]) -> list[str]:
    """Return the columns of all rows, in the order of their first occurrence."""
    return [*dict.fromkeys(name for row in rows for name in flatten(dict(row.values)))]


def check_input(source: str) -> None:
    """Check that the rows can be read, before the run is loaded.

    Raises:
        ValueError: The path is no file, or cannot be read.
    """
    if source == "-":
        return
    if not Path(source).exists() or Path(source).is_dir():
        raise ValueError(f"input={source} is not a file: set a file, or - for standard input")
    if not os.access(source, os.R_OK):
        raise ValueError(f"input={source} cannot be read: permission denied")


def load_predictor(arguments: Arguments) -> Predictor:
    """Return the predictor of the run that the arguments name.

    Raises:
        ValueError: The run cannot be loaded, or the device does not exist.
    """
    device = _device(arguments.device)
    run = load_run(Path(arguments.run))
    task = build(run.config["task"])
    return Predictor(
        run.backbone, run.adapters, task, device, posterior=run.posterior, draws=arguments.draws
    )


def _device(name: str) -> torch.device:
    cuda = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if cuda else "cpu") if name == "auto" else name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={name} is invalid: expected auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name} does not exist on this machine: set device=auto or cpu")
    return device


@contextlib.contextmanager
def _input(arguments: Arguments) -> Iterator[Iterable[bytes]]:
    if arguments.input == "-":
        yield sys.stdin.buffer
        return
    with open_input(Path(arguments.input)) as stream:
        yield stream


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    # a file would get an empty line
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
