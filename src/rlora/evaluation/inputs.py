"""Rows to predict, read one after the other from text, tables or JSON."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlora.io.json_values import Located, json_lines, parse_json
from rlora.io.rows import csv_rows, decode_lines, split_lines, strip_end, table_rows, tsv_rows

FORMATS = ("text", "tsv", "csv", "jsonl", "json")
BY_SUFFIX = {
    ".txt": "text",
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
}

LocatedRow = tuple[str, Mapping[str, Any]]


def read_rows(
    stream: Iterable[bytes], form: str, fields: Sequence[str], name: str
) -> Iterator[LocatedRow]:
    """Yield the location of each row, and its values by column in the order of the input.

    Args:
        stream: The lines of the input.
        form: `text`: one row per line, with tabs between the fields; `tsv`: a table with a header
            and tabs, without quoting; `csv`: a table with a header; `jsonl`: one object per line;
            `json`: a list of objects.
        fields: Names of the fields of a text.
        name: Name of the stream in messages.

    Raises:
        ValueError: A row is malformed, or there are none; the message names the line.
    """
    empty = True
    for row in _read(stream, form, fields, name):
        empty = False
        yield row
    if empty:
        raise ValueError(f"{name} has no rows")


def _read(
    stream: Iterable[bytes], form: str, fields: Sequence[str], name: str
) -> Iterator[LocatedRow]:
    if form in ("csv", "tsv"):
        rows = (csv_rows if form == "csv" else tsv_rows)(stream, name)
        yield from ((f"{name}, line {number}", row) for number, row in table_rows(rows, name))
    elif form == "text":
        for number, line in split_lines(stream, name):
            if line.strip():
                location = f"{name}, line {number}"
                yield location, _text_row(strip_end(line), fields, location)
    else:
        values = json_lines(stream, name) if form == "jsonl" else _json_list(stream, name)
        yield from ((location, _object(value, fields, location)) for location, value in values)


def _text_row(text: str, fields: Sequence[str], location: str) -> dict[str, str]:
    cells = text.split("\t") if len(fields) > 1 else [text]
    if len(cells) != len(fields):
        raise ValueError(
            f"{location}: {len(cells)} fields, expected {', '.join(fields)} with tabs between them"
        )
    return dict(zip(fields, cells, strict=True))


def _json_list(stream: Iterable[bytes], name: str) -> Iterator[Located]:
    try:
        value = parse_json("".join(line for _, line in decode_lines(stream, name)), name)
    except ValueError as error:
        hint = "; for an object per line set format=jsonl" if "Extra data" in str(error) else ""
        raise ValueError(f"{error}{hint}") from error
    if not isinstance(value, list):
        raise ValueError(f"{name} holds no list; for an object per line set format=jsonl")
    return ((f"{name}, entry {number}", row) for number, row in enumerate(value, start=1))


def _object(value: Any, fields: Sequence[str], location: str) -> dict[str, Any]:
    if isinstance(value, str) and len(fields) == 1:
        return {fields[0]: value}
    if not isinstance(value, dict):
        raise ValueError(f"{location} is not an object with the keys {', '.join(fields)}")
    return value
