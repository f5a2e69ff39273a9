"""Rows to predict, read one after the other from text, JSON lines or CSV."""

import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

FORMATS = ("text", "jsonl", "csv")
BY_SUFFIX = {".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


def read_rows(
    stream: TextIO, form: str, fields: Sequence[str], name: str
) -> Iterator[tuple[str, ...]]:
    """Yield the fields of each row.

    Args:
        stream: The input.
        form: `text`: one row per line, with tabs between the fields; `jsonl`: one object per line;
            `csv`: a table with a header.
        fields: Names of the fields, in the order of the result.
        name: Name of the stream in messages.

    Raises:
        ValueError: A row lacks a field or is unreadable; the message names the line.
    """
    if form == "csv":
        yield from _csv_rows(stream, fields, name)
        return
    parse = _json_row if form == "jsonl" else _text_row
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield parse(line, fields, f"{name}, line {number}")


def _text_row(line: str, fields: Sequence[str], location: str) -> tuple[str, ...]:
    text = line.rstrip("\r\n")
    cells = tuple(text.split("\t")) if len(fields) > 1 else (text,)
    if len(cells) != len(fields):
        raise ValueError(
            f"{location}: {len(cells)} fields, expected {', '.join(fields)} with tabs between them"
        )
    return cells


def _json_row(line: str, fields: Sequence[str], location: str) -> tuple[str, ...]:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{location} is not JSON: {error}") from error
    if isinstance(value, str) and len(fields) == 1:
        return (value,)
    if not isinstance(value, dict):
        raise ValueError(f"{location} is not an object with the keys {', '.join(fields)}")
    return _values(value, fields, location)


def _csv_rows(stream: TextIO, fields: Sequence[str], name: str) -> Iterator[tuple[str, ...]]:
    reader = csv.DictReader(stream)
    columns = reader.fieldnames or ()
    if missing := [field for field in fields if field not in columns]:
        raise ValueError(
            f"{name} has no column {missing[0]}: it has {', '.join(columns) or 'none'}"
        )
    for row in reader:
        yield _values(row, fields, f"{name}, line {reader.line_num}")


def _values(row: dict[str, Any], fields: Sequence[str], location: str) -> tuple[str, ...]:
    for field in fields:
        if not isinstance(row.get(field), str):
            keys = ", ".join(map(str, row))
            raise ValueError(f"{location} has no text under {field}: it has {keys}")
    return tuple(row[field] for field in fields)
