"""The command line of predict.py: answers of a trained run to rows that come from anywhere, as they come."""

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


@dataclass(frozen=True)
class Asked:
    """The command line's words, key=value.

    Attributes:
        run: Run folder or adapter folder.
        input: A file, or "-" for standard input.
        output: A file, or "-" for standard output; JSON lines, or CSV by its suffix.
        format: Of the input: text, jsonl or csv; by default by its suffix, and text of standard input.
        batch_size: Rows at once.
        draws: Draws of the posterior of a PAC-Bayes run; 0: its mean alone.
        device: "cpu", "cuda", or "auto".
    """

    run: str
    input: str
    output: str = "-"
    format: str = ""
    batch_size: int = 32
    draws: int = 16
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.form not in FORMATS:
            raise ValueError(
                f"format={self.format or self.input} is unknown: give format={', '.join(FORMATS)}"
            )
        if self.batch_size < 1 or self.draws < 0:
            raise ValueError(
                f"batch_size={self.batch_size} must be at least 1, and draws={self.draws} not negative"
            )

    @property
    def form(self) -> str:
        """The input's format."""
        return self.format or (
            "text" if self.input == "-" else BY_SUFFIX.get(Path(self.input).suffix, "")
        )


def asked(words: Sequence[str]) -> Asked:
    """Read the command line's words.

    Raises:
        ValueError: an unknown or missing key, or a value of another kind.
    """
    known = [each.name for each in fields(Asked)]
    pairs = dict(word.partition("=")[::2] for word in words)
    if unknown := [key for key in pairs if key not in known]:
        raise ValueError(
            f"{unknown[0]} is unknown: the words are {', '.join(f'{key}=' for key in known)}"
        )
    if missing := [key for key in ("run", "input") if not pairs.get(key)]:
        raise ValueError(
            f"{missing[0]}= is missing: python predict.py run=outputs/runs/... input=FILE, or input=- "
        )
    values: dict[str, Any] = dict(pairs)
    for key in ("batch_size", "draws"):
        if key in values and not values[key].isdecimal():
            raise ValueError(f"{key}={values[key]} must be a whole number")
        values |= {key: int(values[key])} if key in values else {}
    return Asked(**values)


def main(words: Sequence[str]) -> int:
    """Answer what the words ask for; 1 with one sentence where that cannot be."""
    quieten()
    try:
        given = asked(words)
        predictor = load(given)
        with _input(given) as stream, _output(given) as write, _progress() as bar:
            job = bar.add_task("answered", total=None)
            rows = read_rows(stream, given.form, predictor.fields, given.input)
            while some := list(itertools.islice(rows, given.batch_size)):
                for row, answer in zip(some, predictor.answer(some), strict=True):
                    write(dict(zip(predictor.fields, row, strict=True)) | answer)
                bar.advance(job, len(some))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def load(given: Asked) -> Predictor:
    """The predictor that the words name.

    Raises:
        ValueError: the run cannot be brought back, or there is no such device.
    """
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(auto if given.device == "auto" else given.device)
    except RuntimeError:
        raise ValueError(f"device={given.device} is unknown: choose auto, cpu or cuda") from None
    run = load_run(Path(given.run))
    task = build(run.config["task"])
    return Predictor(
        run.backbone, run.adapters, task, device, posterior=run.posterior, draws=given.draws
    )


@contextlib.contextmanager
def _input(given: Asked) -> Iterator[TextIO]:
    if given.input == "-":
        yield sys.stdin
        return
    try:
        with open(given.input, encoding="utf-8", newline="") as stream:
            yield stream
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(
            f"input={given.input} is not a file: give one, or - for standard input"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"input={given.input} is not UTF-8: {error}") from error


@contextlib.contextmanager
def _output(given: Asked) -> Iterator[Any]:
    """Provide a function that writes one row. A file appears at its path only when complete."""
    if given.output == "-":
        yield _writer(sys.stdout, "jsonl")
        return
    path = Path(given.output)
    with open_atomically(path) as file:
        stream = io.TextIOWrapper(file, encoding="utf-8", newline="")
        yield _writer(stream, BY_SUFFIX.get(path.suffix, "jsonl"))
        stream.flush()


def _writer(stream: TextIO, form: str) -> Any:
    table: list[Any] = []

    def write(row: Answer) -> None:
        if form != "csv":
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
    return Progress(*columns, console=Console(stderr=True), transient=True)
