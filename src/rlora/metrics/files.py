"""Files of system outputs and of references, in the formats of the E2E challenge's scorer.

A file is a table (`.tsv`, `.csv`) of sources and texts, or plain text. Plain text has one output
per line, or one reference per line with an empty line between segments. Source:
tuetschek/e2e-metrics@1b9c4d8, README and measure_scores.py lines 30-180, which also repair
wrongly decoded characters.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rlora.io.rows import read_lines, wide_fields

_SOURCE = re.compile(
    r"(mr|src|source|meaning([_ .-]rep(resentation)?)?|da|dial(ogue)?[_ .-]act)s?", re.IGNORECASE
)
_OUTPUT = re.compile(
    r"(out(put)?|ref(erence)?|sys(tem)?([_ .-](out(put)?|ref(erence)?))?"
    r"|trg|tgt|target|human([_ .-]ref(erence)?)?)s?",
    re.IGNORECASE,
)
_REPAIRS = (("Ł", "£"), ("Â£", "£"), ("Ã©", "é"), ("ã©", "é"))


@dataclass(frozen=True)
class Row:
    """A line of a file: its source (None in plain text), its text and its number."""

    source: str | None
    text: str
    line: int


def read_pairs(outputs: Path, references: Path) -> tuple[list[Row], list[list[str]]]:
    """Return the outputs, and the references of each.

    Raises:
        ValueError: A file or line is unreadable, a source has no reference, or the numbers differ.
    """
    rows = read_rows(outputs) if _is_table(outputs) else _plain_rows(outputs)
    groups = read_references(references)
    if rows and rows[0].source is not None and groups and groups[0][0].source is not None:
        return rows, _references_by_source(rows, groups, outputs, references)
    while len(rows) > len(groups) and not rows[-1].text:  # blank lines after the last output
        rows.pop()
    if len(rows) != len(groups):
        raise ValueError(
            f"{outputs} has {len(rows)} outputs and {references} references for {len(groups)} "
            "segments; write one line per segment, an empty one where there is no output"
        )
    return rows, [[row.text for row in group] for group in groups]


def read_references(path: Path) -> list[list[Row]]:
    """Return the references in groups: by source in a table, by empty lines in plain text.

    Raises:
        ValueError: The file or a line of it is unreadable, or a reference is empty.
    """
    if _is_table(path):
        grouped: dict[str | None, list[Row]] = {}
        for row in read_rows(path):
            grouped.setdefault(row.source, []).append(row)
        groups = list(grouped.values())
    else:
        blocks = groupby(_plain_rows(path), key=lambda row: bool(row.text))
        groups = [list(block) for has_text, block in blocks if has_text]
    if empty := [row.line for group in groups for row in group if not row.text]:
        raise ValueError(f"{path}, line {empty[0]}: the reference is empty")
    return groups


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a table of sources and texts.

    A header names the columns; without a header there are two. Quotes are double, single or absent.

    Raises:
        ValueError: The file is unreadable, its header does not name one source and one text column,
            or a row has another number of columns.
    """
    lines = [(number, _repair(line)) for number, line in _lines(path) if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty")
    delimiter = "\t" if "\t" in lines[0][1] else ","
    quote = "'" if all(line.startswith("'") for _, line in lines[1:]) and len(lines) > 1 else '"'
    # One reader per line, so that an unpaired quote does not swallow the next lines.
    try:
        with wide_fields():
            table = [
                (number, next(csv.reader([line], delimiter=delimiter, quotechar=quote)))
                for number, line in lines
            ]
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    names = table[0][1]
    columns = _columns(names, path)
    source, text = columns or (0, 1)
    for number, fields in table:
        if len(fields) != len(names):
            raise ValueError(
                f"{path}, line {number}: {len(fields)} columns, but the first line has {len(names)}"
            )
    rows = table if columns is None else table[1:]
    return [Row(fields[source], fields[text], number) for number, fields in rows]


def _columns(names: Sequence[str], path: Path) -> tuple[int, int] | None:
    """Return the positions of source and text in a header, or None where there is no header."""
    sources = [i for i, name in enumerate(names) if _SOURCE.fullmatch(name)]
    texts = [i for i, name in enumerate(names) if _OUTPUT.fullmatch(name)]
    if not sources and not texts and len(names) == 2:
        return None
    if len(sources) != 1 or len(texts) != 1:
        raise ValueError(
            f"{path}: expected one column of sources (mr) and one of texts (ref, output), but the "
            f"columns are {names}"
        )
    return sources[0], texts[0]


def _references_by_source(
    rows: list[Row], groups: list[list[Row]], outputs: Path, references: Path
) -> list[list[str]]:
    texts = {group[0].source: [row.text for row in group] for group in groups}
    if unknown := [row for row in rows if row.source not in texts]:
        raise ValueError(
            f"{outputs}, line {unknown[0].line}: {references} has no reference for its source "
            f"{unknown[0].source!r}"
        )
    if missing := set(texts) - {row.source for row in rows}:
        raise ValueError(
            f"{outputs} has no output for {len(missing)} of the {len(texts)} sources of "
            f"{references}; the first is {sorted(map(str, missing))[0]!r}"
        )
    return [texts[row.source] for row in rows]


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".tsv", ".csv")


def _plain_rows(path: Path) -> list[Row]:
    return [Row(None, text, number) for number, text in _lines(path)]


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines with their numbers, without white space around them; tabs stay."""
    return [(number, line.strip(" \r\f\v")) for number, line in read_lines(path)]


def _repair(line: str) -> str:
    for wrong, right in _REPAIRS:
        line = line.replace(wrong, right)
    return line
