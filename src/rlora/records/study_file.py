"""The file of a study: one record per line, with an index that finds a run without reading it all.

`records.jsonl` is the data. The index `.records.jsonl.index` is an SQLite file derived from it: it
is written again whenever it does not fit the file, and a study is read without it where it cannot
be written.
"""

import fcntl
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from rlora.records.record import RunRecord, parse_study_line

_HASH = re.compile(rb'"config_hash": "([0-9a-f]*)"')
_BLOCK = 2**16  # bytes
_SCHEMA = """
CREATE TABLE IF NOT EXISTS line (hash TEXT, number INTEGER, start INTEGER, end INTEGER);
CREATE INDEX IF NOT EXISTS by_hash ON line (hash);
CREATE TABLE IF NOT EXISTS state (size INTEGER, lines INTEGER, modified INTEGER);
"""


def append_execution(record: RunRecord, file: Path) -> None:
    """Append a record as one line, unless the file holds this execution of the run.

    Concurrent calls wait for each other, so that of several equal ones one appends.
    """
    line = json.dumps(asdict(record), allow_nan=False) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.truncate(_end_of_lines(stream))  # drop a line that a full disk cut off
        held = records_of(file, record.run.config_hash)
        if any(each.run.started == record.run.started for each in held):
            return
        stream.write(line.encode())
        stream.flush()
        os.fsync(stream.fileno())


def _end_of_lines(stream: BinaryIO) -> int:
    """Return the position after the last line end, searching backwards from the end."""
    end = stream.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        stream.seek(start)
        if (last := stream.read(end - start).rfind(b"\n")) >= 0:
            return start + last + 1
        end = start
    return 0


def study_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield each line with its place, "file, line n". An incomplete last line is dropped."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.endswith(b"\n"):
                yield f"{file}, line {number}", line.decode(errors="replace")


def read_study(file: Path) -> list[RunRecord]:
    """Read all records of a study. A missing file has none.

    Raises:
        ValueError: a line is not a record.
    """
    if not file.is_file():
        return []
    return [parse_study_line(line, place) for place, line in study_lines(file)]


def records_of(file: Path, config_hash: str) -> list[RunRecord]:
    """Return the records of a study with a config hash, in the order of the file.

    Reads only their lines, and those that were appended since the last call.

    Raises:
        ValueError: one of these lines is not a record.
    """
    if not file.is_file():
        return []
    try:
        with closing(_open_index(file)) as index, file.open("rb") as stream:
            _update(index, stream)
            found = index.execute(
                "SELECT number, start, end FROM line WHERE hash = ? ORDER BY number", (config_hash,)
            ).fetchall()
            lines = [(number, _read(stream, start, end)) for number, start, end in found]
    except sqlite3.Error:  # the folder cannot be written, or its file system has no locks
        wanted = config_hash.encode()
        with file.open("rb") as stream:
            lines = [(n, line) for n, line in enumerate(stream, start=1) if wanted in line]
    records = [parse_study_line(line.decode(), f"{file}, line {n}") for n, line in lines]
    return [record for record in records if record.run.config_hash == config_hash]


def _read(stream: BinaryIO, start: int, end: int) -> bytes:
    stream.seek(start)
    return stream.read(end - start)


def _open_index(file: Path) -> sqlite3.Connection:
    place = file.with_name(f".{file.name}.index")
    index = sqlite3.connect(place, timeout=30)
    try:
        index.executescript(_SCHEMA)
    except sqlite3.DatabaseError as error:
        index.close()
        if isinstance(error, sqlite3.OperationalError):
            raise
        place.unlink()  # not an index: a damaged file
        index = sqlite3.connect(place, timeout=30)
        index.executescript(_SCHEMA)
    return index


def _update(index: sqlite3.Connection, stream: BinaryIO) -> None:
    """Add the lines that the index lacks, or all if the file is no longer the indexed one."""
    with index:
        index.execute("BEGIN IMMEDIATE")
        facts = os.fstat(stream.fileno())
        size, lines, modified = index.execute("SELECT * FROM state").fetchone() or (0, 0, 0)
        if (size, modified) == (facts.st_size, facts.st_mtime_ns):
            return
        if size >= facts.st_size or not _fits(index, stream):  # not merely longer
            index.execute("DELETE FROM line")
            size = lines = 0
        stream.seek(size)
        for line in stream:
            if not line.endswith(b"\n"):
                break
            start = size
            size += len(line)
            lines += 1
            row = (_hash_in(line), lines, start, size)
            index.execute("INSERT INTO line VALUES (?, ?, ?, ?)", row)
        index.execute("DELETE FROM state")
        index.execute("INSERT INTO state VALUES (?, ?, ?)", (size, lines, facts.st_mtime_ns))


def _fits(index: sqlite3.Connection, stream: BinaryIO) -> bool:
    """Return whether the first and the last indexed line are still where they were."""
    rows = index.execute(
        "SELECT hash, start, end FROM line WHERE number IN (1, (SELECT max(number) FROM line))"
    )
    return all(_hash_in(_read(stream, start, end)) == found for found, start, end in rows)


def _hash_in(line: bytes) -> str:
    match = _HASH.search(line)
    return match[1].decode() if match else ""
