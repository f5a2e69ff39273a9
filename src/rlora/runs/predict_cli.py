"""The command line of predict.py: predictions of a trained run, row by row."""

import contextlib
import csv
import io
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rlora.config.build import build
from rlora.config.flatten import flatten
from rlora.evaluation.inputs import BY_SUFFIX, FORMATS, read_rows
from rlora.evaluation.predict import Answer, Predictor
from rlora.io.atomic import open_atomically
from rlora.runs.console import quieten
from rlora.runs.load import load_run

HELP = """Predict rows with a trained run. Each prediction is written as soon as it is computed.

  python predict.py run=outputs/runs/lexicon-rlora/<time> input=rows.csv output=predictions.csv
  echo "a good film" | python predict.py run=<run folder> input=-

  run=         run folder or adapter folder
  input=       file, or - for standard input
  output=      file, written as CSV if it ends in .csv, else as JSON lines; by default - for
               standard output
  format=      of the input: text (a row per line, fields separated by tabs), jsonl or csv;
               by default by the suffix, and text for standard input
  batch_size=  rows per batch, 32 by default
  draws=       samples of a PAC-Bayes run's posterior, 16 by default; 0 predicts with its mean
  device=      auto (default), cpu or cuda
"""


@dataclass(frozen=True)
class Arguments:
    """The `key=value` arguments of the command line.

    Args:
        run: Run folder or adapter folder.
        input: File, or "-" for standard input.
        output: File, or "-" for standard output; JSON lines, or CSV by its suffix.
        format: Of the input: text, jsonl or csv; by default by its suffix, and text for standard
            input.
        batch_size: Rows per batch.
        draws: Samples of the posterior of a PAC-Bayes run; 0 for its mean.
        device: "cpu", "cuda" or "auto".

    Raises:
        ValueError: A value is out of range.
    """

    run: str
    input: str
    output: str = "-"
    format: str = ""
    batch_size: int = 32
    draws: int = 16
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
        if self.draws < 0:
            raise ValueError(f"draws={self.draws} is invalid: expected at least 0")

    @property
    def input_format(self) -> str:
        """The input's format, "" where its suffix does not say."""
        if self.format or self.input == "-":
            return self.format or "text"
        return BY_SUFFIX.get(Path(self.input).suffix, "")


def parse_arguments(arguments: Sequence[str]) -> Arguments:
    """Return the arguments of the command line.

    Raises:
        ValueError: A key is unknown or missing, or its value has the wrong type.
    """
    keys = [each.name for each in fields(Arguments)]
    pairs = dict(argument.partition("=")[::2] for argument in arguments)
    if unknown := [key for key in pairs if key not in keys]:
        raise ValueError(f"{unknown[0]} is unknown: the keys are {', '.join(keys)}")
    if missing := [key for key in ("run", "input") if not pairs.get(key)]:
        raise ValueError(
            f"{missing[0]}= is missing: python predict.py run=<run folder> input=FILE, or input=-"
        )
    values: dict[str, Any] = dict(pairs)
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
    return 0


def _predict(arguments: Arguments) -> None:
    predictor = load_predictor(arguments)
    names = predictor.fields
    with _input(arguments) as stream, _output(arguments) as write, _progress() as progress:
        bar = progress.add_task("predicted rows", total=None)
        rows = read_rows(stream, arguments.input_format, names, arguments.input)
        while batch := list(itertools.islice(rows, arguments.batch_size)):
            for row, answer in zip(batch, predictor.answer(batch), strict=True):
                write(dict(zip(names, row, strict=True)) | answer)
            progress.advance(bar, len(batch))


def load_predictor(arguments: Arguments) -> Predictor:
    """Return the predictor of the run that the arguments name.

    Raises:
        ValueError: The run cannot be loaded, or the device does not exist.
    """
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(auto if arguments.device == "auto" else arguments.device)
    except RuntimeError:
        raise ValueError(
            f"device={arguments.device} is invalid: expected auto, cpu or cuda"
        ) from None
    run = load_run(Path(arguments.run))
    task = build(run.config["task"])
    return Predictor(
        run.backbone, run.adapters, task, device, posterior=run.posterior, draws=arguments.draws
    )


@contextlib.contextmanager
def _input(arguments: Arguments) -> Iterator[TextIO]:
    if arguments.input == "-":
        yield sys.stdin
        return
    try:
        with open(arguments.input, encoding="utf-8", newline="") as stream:
            yield stream
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(
            f"input={arguments.input} is not a file: set a file, or - for standard input"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"input={arguments.input} is not UTF-8: {error}") from error


@contextlib.contextmanager
def _output(arguments: Arguments) -> Iterator[Any]:
    """Provide a function that writes one row. A file appears at its path only when complete."""
    if arguments.output == "-":
        yield _writer(sys.stdout, "jsonl")
        return
    path = Path(arguments.output)
    with open_atomically(path) as file:
        stream = io.TextIOWrapper(file, encoding="utf-8", newline="")
        yield _writer(stream, BY_SUFFIX.get(path.suffix, "jsonl"))
        stream.flush()


def _writer(stream: TextIO, output_format: str) -> Any:
    table: list[Any] = []

    def write(row: Answer) -> None:
        if output_format != "csv":
            print(json.dumps(row, ensure_ascii=False), file=stream, flush=True)
            return
        values = flatten(row)
        if not table:
            table.append(csv.DictWriter(stream, list(values), lineterminator="\n"))
            table[0].writeheader()
        table[0].writerow(values)
        stream.flush()

    return write


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    # a file would get an empty line
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
