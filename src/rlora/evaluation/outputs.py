"""Files of predictions: JSON lines or CSV, complete or absent."""

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rlora.config.flatten import flatten
from rlora.io.atomic import open_atomically

BY_SUFFIX = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}

Write = Callable[[Mapping[str, Any], Mapping[str, Any], str], None]


def check_output(output: str, source: str) -> None:
    """Check that predictions can be written, before they are computed.

    Args:
        output: File, or "-" for standard output.
        source: File of the rows, or "-".

    Raises:
        ValueError: The suffix is unknown, the path is a folder or the input, or its folder is not
            writable.
    """
    if output == "-":
        return
    path = Path(output)
    if path.is_dir():
        raise ValueError(f"output={output} is a folder: set a file in it")
    if path.suffix.lower() not in BY_SUFFIX:
        raise ValueError(
            f"output={output} is invalid: expected a file that ends in {', '.join(BY_SUFFIX)}, or "
            "- for standard output"
        )
    if source != "-" and path.exists() and path.samefile(source):
        raise ValueError(f"output={output} is the input: set another file")
    if path.exists() and not path.is_file():
        raise ValueError(f"output={output} is not a regular file: set another one")
    folder = next(each for each in path.absolute().parents if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"output={output} cannot be written: {folder} is not a writable folder")


@contextlib.contextmanager
def open_output(output: str, columns: Sequence[str] | None) -> Iterator[Write]:
    """Provide a function that writes the columns and the answer of a row from a location.

    A file appears at its path only when complete.

    Args:
        output: File, or "-" for standard output.
        columns: All columns of the input as `flatten` names them; None: those of the first row.

    Raises:
        ValueError: The file cannot be written.
    """
    if output == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        yield _writer(sys.stdout, "jsonl", columns)
        return
    path = Path(output)
    with contextlib.ExitStack() as stack:
        with _blaming(output):
            file = stack.enter_context(open_atomically(path))
        stream = io.TextIOWrapper(file, encoding="utf-8", newline="")
        write = _writer(stream, BY_SUFFIX[path.suffix.lower()], columns)

        def write_or_blame(
            values: Mapping[str, Any], answer: Mapping[str, Any], location: str
        ) -> None:
            with _blaming(output):
                write(values, answer, location)

        yield write_or_blame
        with _blaming(output):
            stream.flush()
            stream.detach()
            stack.close()


@contextlib.contextmanager
def _blaming(output: str) -> Iterator[None]:
    """Name the output in errors of writing; errors of reading must not name it."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"output={output} cannot be written: {error.strerror}") from error


def _writer(stream: TextIO, output_format: str, columns: Sequence[str] | None) -> Write:
    tables: list[csv.DictWriter[str]] = []

    def write(values: Mapping[str, Any], answer: Mapping[str, Any], location: str) -> None:
        if output_format != "csv":
            line = json.dumps({**values, **answer}, ensure_ascii=False, allow_nan=False)
            print(line, file=stream, flush=True)
            return
        row = flatten({**values, **answer})
        if not tables:
            names = [*(flatten(dict(values)) if columns is None else columns), *flatten(answer)]
            for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
                tables.append(csv.DictWriter(stream, names, lineterminator="\n", quoting=quoting))
            tables[0].writeheader()
        plain, quoted = tables
        if unknown := [name for name in row if name not in plain.fieldnames]:
            raise ValueError(
                f"{location}: its column {unknown[0]!r} is not in the first row, as CSV requires; "
                "set an output that ends in .jsonl"
            )
        cells = {name: _cell(value) for name, value in row.items()}
        # csv leaves a carriage return unquoted, at which readers would end the row
        (quoted if any("\r" in str(cell) for cell in cells.values()) else plain).writerow(cells)
        stream.flush()

    return write


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, str) or type(value) in (int, float) else json.dumps(value)
