"""Rows to predict, from text, JSON lines or CSV, one after the other as they come."""

import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

FORMATS = ("text", "jsonl", "csv")
BY_SUFFIX = {".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


def read_rows(
    stream: TextIO, form: str, fields: Sequence[str], place: str
) -> Iterator[tuple[str, ...]]:
    """Yield the fields of each row.

    Args:
        stream: What is read.
        form: "text": a row a line, several fields parted by tabs; "jsonl": an object a line; "csv": with a header.
        fields: Names of the fields, in the order of the result.
        place: What the stream is called in messages.

    Raises:
        ValueError: a row lacks a field, or cannot be read; told by line.
    """
    if form == "csv":
        yield from _csv(stream, fields, place)
        return
    for number, line in enumerate(stream, start=1):
        if line.strip():
            where = f"{place}, line {number}"
            yield _object(line, fields, where) if form == "jsonl" else _text(line, fields, where)


def _text(line: str, fields: Sequence[str], where: str) -> tuple[str, ...]:
    cells = tuple(line.rstrip("\r\n").split("\t")) if len(fields) > 1 else (line.rstrip("\r\n"),)
    if len(cells) != len(fields):
        raise ValueError(
            f"{where}: {len(cells)} fields, not {', '.join(fields)} with tabs between them"
        )
    return cells


def _object(line: str, fields: Sequence[str], where: str) -> tuple[str, ...]:
    try:
        found: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if isinstance(found, str) and len(fields) == 1:
        return (found,)
    if not isinstance(found, dict):
        raise ValueError(f"{where} is no object with the keys {', '.join(fields)}")
    return _values(found, fields, where)


def _csv(stream: TextIO, fields: Sequence[str], place: str) -> Iterator[tuple[str, ...]]:
    reader = csv.DictReader(stream)
    if missing := [name for name in fields if name not in (reader.fieldnames or ())]:
        raise ValueError(
            f"{place} has no column {missing[0]}: it has {', '.join(reader.fieldnames or ()) or 'none'}"
        )
    for row in reader:
        yield _values(row, fields, f"{place}, line {reader.line_num}")


def _values(row: dict[str, Any], fields: Sequence[str], where: str) -> tuple[str, ...]:
    for name in fields:
        if not isinstance(row.get(name), str):
            raise ValueError(f"{where} has no text under {name}: it has {', '.join(map(str, row))}")
    return tuple(row[name] for name in fields)
