"""Files of system outputs and of references, in the formats of the E2E challenge's scorer.

Either a table (``.tsv``, ``.csv``) of sources and texts, or plain text: one output a line; references one a line, those
of different segments parted by an empty line. Source: tuetschek/e2e-metrics@1b9c4d8, README and measure_scores.py
lines 30-180, among them the repair of badly decoded characters.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

_SOURCE = re.compile(
    r"(mr|src|source|meaning([_ .-]rep(resentation)?)?|da|dial(ogue)?[_ .-]act)s?", re.IGNORECASE
)
_OUTPUT = re.compile(
    r"(out(put)?|ref(erence)?|sys(tem)?([_ .-](out(put)?|ref(erence)?))?|trg|tgt|target|human([_ .-]ref(erence)?)?)s?",
    re.IGNORECASE,
)
_REPAIRS = (("Ł", "£"), ("Â£", "£"), ("Ã©", "é"), ("ã©", "é"))


@dataclass(frozen=True)
class Row:
    """A line of a file: its source, None in plain text, its text and its number."""

    source: str | None
    text: str
    line: int


def read_pairs(outputs: Path, references: Path) -> tuple[list[Row], list[list[str]]]:
    """Return the outputs, and for each of them its references.

    Raises:
        ValueError: a file or line cannot be read, a source has no reference, or the numbers differ.
    """
    found = (
        read_rows(outputs)
        if _is_table(outputs)
        else [Row(None, text, n) for n, text in _lines(outputs)]
    )
    groups = read_references(references)
    if found and found[0].source is not None and groups and groups[0][0].source is not None:
        return found, _by_source(found, groups, outputs, references)
    if len(found) != len(groups):
        raise ValueError(
            f"{outputs} has {len(found)} outputs and {references} references for {len(groups)} segments; give one "
            "output for each, an empty line where there is none"
        )
    return found, [[row.text for row in group] for group in groups]


def read_references(path: Path) -> list[list[Row]]:
    """Return the references, grouped: in a table by equal source, in plain text by empty lines.

    Raises:
        ValueError: the file or a line of it cannot be read, or a reference is empty.
    """
    if _is_table(path):
        grouped: dict[str | None, list[Row]] = {}
        for row in read_rows(path):
            grouped.setdefault(row.source, []).append(row)
        groups = list(grouped.values())
    else:
        blocks = groupby(_lines(path), key=lambda numbered: bool(numbered[1]))
        groups = [[Row(None, text, n) for n, text in block] for filled, block in blocks if filled]
    if empty := [row.line for group in groups for row in group if not row.text]:
        raise ValueError(f"{path}, line {empty[0]}: the reference is empty")
    return groups


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a table of sources and texts.

    Columns are found by their names where there is a header, else they are two. Quotes may be double, single or none.

    Raises:
        ValueError: the file cannot be read, names a column twice or only one of them, or a row has other columns.
    """
    lines = [(number, _repaired(line)) for number, line in _lines(path) if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty")
    delimiter = "\t" if "\t" in lines[0][1] else ","
    quote = "'" if all(line.startswith("'") for _, line in lines[1:]) and len(lines) > 1 else '"'
    table = [
        (number, next(csv.reader([line], delimiter=delimiter, quotechar=quote)))
        for number, line in lines
    ]
    names = table[0][1]
    source, text, headed = _columns(names, path)
    for number, fields in table:
        if len(fields) != len(names):
            raise ValueError(
                f"{path}, line {number}: {len(fields)} columns, where the first line has {len(names)}"
            )
    return [Row(fields[source], fields[text], number) for number, fields in table[headed:]]


def _columns(names: Sequence[str], path: Path) -> tuple[int, int, bool]:
    sources = [i for i, name in enumerate(names) if _SOURCE.fullmatch(name)]
    texts = [i for i, name in enumerate(names) if _OUTPUT.fullmatch(name)]
    if not sources and not texts and len(names) == 2:
        return 0, 1, False
    if len(sources) != 1 or len(texts) != 1:
        raise ValueError(
            f"{path}: one column of sources (mr) and one of texts (ref, output) are needed, not {names}"
        )
    return sources[0], texts[0], True


def _by_source(
    found: list[Row], groups: list[list[Row]], outputs: Path, references: Path
) -> list[list[str]]:
    texts = {group[0].source: [row.text for row in group] for group in groups}
    if unknown := [row for row in found if row.source not in texts]:
        raise ValueError(
            f"{outputs}, line {unknown[0].line}: {references} has no reference for its source {unknown[0].source!r}"
        )
    if missing := set(texts) - {row.source for row in found}:
        raise ValueError(
            f"{outputs} has no output for {len(missing)} of the {len(texts)} sources of {references}, the first: "
            f"{sorted(map(str, missing))[0]!r}"
        )
    return [texts[row.source] for row in found]


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".tsv", ".csv")


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text: {error}") from error
    lines = content.split("\n")
    kept = lines if lines[-1] else lines[:-1]
    return [(number, line.strip(" \r\f\v")) for number, line in enumerate(kept, start=1)]


def _repaired(line: str) -> str:
    for wrong, right in _REPAIRS:
        line = line.replace(wrong, right)
    return line
