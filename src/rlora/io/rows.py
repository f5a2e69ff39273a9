"""Readers of lines and tables: strict UTF-8, and errors that name file and line.

A byte order mark is dropped, also where files were joined. Nothing but LF, CRLF and CR ends a line:
a text may hold U+2028 or U+0085, at which `str.splitlines` would cut it.
"""

import codecs
import csv
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

_MARK = "\ufeff"
# First bytes of files that are no UTF-8 text, longer ones first: what they are, and the remedy.
_SAVE = "save it as UTF-8 (in Excel: CSV UTF-8)"
_OTHER_FILES = {
    codecs.BOM_UTF32_LE: ("UTF-32", _SAVE),
    codecs.BOM_UTF32_BE: ("UTF-32", _SAVE),
    codecs.BOM_UTF16_LE: ("UTF-16", _SAVE),
    codecs.BOM_UTF16_BE: ("UTF-16", _SAVE),
    b"\x1f\x8b": ("compressed by gzip", "decompress it"),
    b"PK\x03\x04": ("a ZIP archive or an Excel workbook", "extract it, or save it as CSV UTF-8"),
}
_WIDEST = 2**31 - 1  # characters of a CSV field; the largest limit on every platform
_SEPARATOR = re.compile(r"[;\t|]|,(?! )")  # in a header of one column: of another format
_LONE_CR = re.compile(r"(?<=\r)(?!\n)")

Numbered = tuple[int, str]


@contextmanager
def open_input(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Raises:
        ValueError: The file cannot be opened.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    with stream:
        yield stream


def read_text(path: Path) -> str:
    """Return the content of a file; see `decode_lines`."""
    with open_input(path) as stream:
        return "".join(line for _, line in decode_lines(stream, str(path)))


def read_lines(path: Path) -> list[Numbered]:
    """Return the lines of a file with their numbers, without their line ends.

    CR alone ends them only in a file without LF: in others it is part of a text.
    """
    with open_input(path) as stream:
        lines = list(decode_lines(stream, str(path)))
    if len(lines) == 1 and not lines[0][1].endswith("\n"):
        lines = list(split_lines([lines[0][1].encode()], str(path)))
    return [(number, strip_end(line)) for number, line in lines]


def decode_lines(stream: Iterable[bytes], name: str) -> Iterator[Numbered]:
    """Yield number and text of each line, with its line end.

    Args:
        stream: Lines that end with LF.
        name: Name of the stream in messages.

    Raises:
        ValueError: A line is not UTF-8 or has a NUL byte.
    """
    for number, raw in enumerate(stream, start=1):
        for start, (kind, remedy) in _OTHER_FILES.items() if number == 1 else ():
            if raw.startswith(start):
                raise ValueError(f"{name} is {kind}, expected text in UTF-8: {remedy}")
        try:
            text = raw.decode().lstrip(_MARK)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}, line {number}: byte {error.start + 1} of the line "
                f"(0x{raw[error.start]:02x}) is not UTF-8; save the file as UTF-8"
            ) from error
        if "\0" in text:
            raise ValueError(f"{name}, line {number}: it has a NUL byte; save the file as UTF-8")
        yield number, text


def split_lines(stream: Iterable[bytes], name: str) -> Iterator[Numbered]:
    """Yield number and text of each line as `decode_lines` does, also where CR alone ends it."""
    number = 0
    for _, line in decode_lines(stream, name):
        for part in filter(None, _LONE_CR.split(line)):
            number += 1
            yield number, part


def strip_end(line: str) -> str:
    """Return a line without its line end: LF, CRLF or CR."""
    return line.removesuffix("\n").removesuffix("\r")


# Tables

_limit_lock = threading.Lock()
_limit: dict[str, int] = {"users": 0, "outer": 0}


@contextmanager
def wide_fields() -> Iterator[None]:
    """Raise the limit of `csv` on the length of a field, and restore it afterwards.

    The limit is global in the process, so the first of several users raises it and the last one
    restores it.
    """
    with _limit_lock:
        if _limit["users"] == 0:
            _limit["outer"] = csv.field_size_limit(_WIDEST)
        _limit["users"] += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit["users"] -= 1
            if _limit["users"] == 0:
                csv.field_size_limit(_limit["outer"])


def csv_rows(stream: Iterable[bytes], name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row of a CSV file, with the number of its first line.

    Blank lines are skipped. A quoted field may span lines; where its lines look like rows, a
    warning names them, because a stray quotation mark would swallow them.

    Raises:
        ValueError: A quotation mark has no partner, or a row has another width than the first.
    """
    width, read, spanning = 0, 0, 0
    recent: list[str] = []  # lines of the current row

    def feed() -> Iterator[str]:
        for _, line in split_lines(stream, name):
            recent.append(line)
            yield line

    reader = csv.reader(feed(), strict=True)  # strict: else an open quotation mark passes unseen
    while True:
        first = read + 1
        try:
            with wide_fields():
                cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(_quotation_error(name, first, reader.line_num, error)) from error
        read = reader.line_num
        lines, recent[:] = list(recent), []
        if cells is None:
            break
        if not "".join(cells).strip() and len(cells) < max(width, 2):
            continue
        width = width or len(cells)
        if len(lines) > 1 and any(part.count(",") == width - 1 for part in lines[1:]):
            spanning += 1
            if spanning == 1:
                log.warning(
                    "%s, lines %d to %d: they are one row, because a quoted field spans them; if "
                    "each is a row, remove the stray quotation mark.",
                    name,
                    first,
                    read,
                )
        if len(cells) != width:
            raise ValueError(f"{name}, line {first}: {len(cells)} columns, expected {width}")
        yield first, cells
    if spanning > 1:
        log.warning("%s: %d more rows span several lines.", name, spanning - 1)


def tsv_rows(stream: Iterable[bytes], name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row of a tab-separated file without quoting, with its number.

    Blank lines are skipped.

    Raises:
        ValueError: A row has another width than the first.
    """
    width = 0
    for number, line in split_lines(stream, name):
        cells = strip_end(line).split("\t")
        if cells == [""]:
            continue
        width = width or len(cells)
        if len(cells) != width:
            raise ValueError(f"{name}, line {number}: {len(cells)} columns, expected {width}")
        yield number, cells


def _quotation_error(name: str, first: int, last: int, error: csv.Error) -> str:
    lines = f"line {first}" if last <= first else f"lines {first} to {last}"
    if "unexpected end" in str(error):
        return (
            f"{name}, {lines}: a quotation mark opens a field that no other closes; remove it, or "
            "quote the field and double the marks inside"
        )
    return (
        f"{name}, {lines}: text follows the quotation mark that closes a field; double the marks "
        "inside a quoted field"
    )


def table_rows(
    rows: Iterator[tuple[int, list[str]]], name: str, columns: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table with a header as dicts, with the number of their first line.

    Args:
        rows: Rows of cells of the same width, the header first.
        name: Name of the table in messages.
        columns: Columns that it must have.

    Raises:
        ValueError: The table is empty, or a column is missing or occurs twice.
    """
    header = next(rows, None)
    if header is None:
        raise ValueError(f"{name} is empty")
    names = header[1]
    if len(names) == 1 and (separator := _SEPARATOR.search(names[0])):
        raise ValueError(
            f"{name}, line {header[0]}: its columns are separated by {separator[0]!r}: save it as "
            "CSV with commas, or as TSV with tabs"
        )
    if missing := [column for column in columns if column not in names]:
        raise ValueError(f"{name} has no column {missing[0]}: it has {', '.join(names)}")
    if twice := [column for column in names if names.count(column) > 1]:
        raise ValueError(f"{name}, line {header[0]}: the column {twice[0]!r} occurs twice")
    for number, cells in rows:
        yield number, dict(zip(names, cells, strict=True))


def read_csv(path: Path, columns: Sequence[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV file with a header; see `csv_rows` and `table_rows`."""
    with open_input(path) as stream:
        return list(table_rows(csv_rows(stream, str(path)), str(path), columns))
