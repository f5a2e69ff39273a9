"""A strict reader of tab-separated files without quoting; its errors name file and line."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from rlora.data.examples import Examples
from rlora.io.rows import read_lines

log = logging.getLogger(__name__)

ParseLabel = Callable[[str], int | float]


def class_label(labels: Sequence[str]) -> ParseLabel:
    """Return a function from a label name to its id; it raises a ValueError for other names."""
    ids = {name: index for index, name in enumerate(labels)}

    def parse(text: str) -> int:
        if text not in ids:
            raise ValueError(f"label {text!r}, expected one of {list(labels)} (task.labels)")
        return ids[text]

    return parse


def score_label(low: float, high: float) -> ParseLabel:
    """Return a function from text to a score in [low, high]; it raises a ValueError otherwise."""

    def parse(text: str) -> float:
        try:
            score = float(text)
        except ValueError:
            score = float("nan")
        if not low <= score <= high:
            raise ValueError(
                f"score {text!r}, expected a number from {low:g} to {high:g} (task.score_range)"
            )
        return score

    return parse


def _position(column: str | int, header: list[str] | None, width: int, path: Path) -> int:
    if isinstance(column, str):
        if header is None or column not in header:
            actual = "no header" if header is None else f"the columns {header}"
            raise ValueError(
                f"{path}, line 1: has {actual}, expected a column {column!r} "
                "(task.text, task.label)."
            )
        if header.count(column) > 1:
            raise ValueError(f"{path}, line 1: the column {column!r} occurs twice; rename one.")
        return header.index(column)
    if not 0 <= column < width:
        raise ValueError(
            f"{path}, line 1: has {width} columns, expected a column at position {column} (from 0)."
        )
    return column


def read_tsv(
    path: Path,
    *,
    text: Sequence[str | int],
    label: str | int | None,
    header: bool,
    parse_label: ParseLabel,
    incomplete_rows: str = "error",
) -> Examples:
    """Read the examples of a file.

    Args:
        path: The file: UTF-8 with or without a byte order mark, with line ends LF or CRLF.
        text: Columns of the text fields, by header name or by position from 0.
        label: Column of the label, or None for an unlabeled file.
        header: Whether the first line names the columns.
        parse_label: Function from the label's text to an id or a score.
        incomplete_rows: `error` or `skip`, for rows of another width or with an empty text.
            Unlabeled files keep them with "", because every row needs a prediction.

    Raises:
        ValueError: A row is malformed, a column is missing, or there are no rows.
    """
    texts: list[tuple[str, ...]] = []
    labels: list[int | float] = []
    skipped = 0
    rows = _cells(path)
    names = rows[0][1] if header else None
    width = len(rows[0][1])
    columns = [_position(column, names, width, path) for column in text]
    target = None if label is None else _position(label, names, width, path)
    for number, cells in rows[1:] if header else rows:
        row = tuple(cells[column] if column < len(cells) else "" for column in columns)
        problem = _problem(cells, row, width, text)
        if problem and incomplete_rows == "error":
            raise ValueError(f"{path}, line {number}: {problem}; correct the file.")
        if problem and target is not None:
            skipped += 1
            continue
        texts.append(row)
        if target is not None:
            labels.append(located_label(cells[target], parse_label, f"{path}, line {number}"))
    if skipped:
        log.warning("%s: skipping %d incomplete rows (task.incomplete_rows=skip).", path, skipped)
    if not texts:
        raise ValueError(f"{path} has no rows; put a complete file under task.path.")
    return Examples(texts, None if target is None else labels)


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    """Return the cells of each line with its number, without blank lines at the end."""
    lines = read_lines(path)
    while lines and not lines[-1][1]:
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty; put a complete file under task.path.")
    return [(number, line.split("\t")) for number, line in lines]


def _problem(
    cells: Sequence[str], row: tuple[str, ...], width: int, text: Sequence[str | int]
) -> str | None:
    """Return what is wrong with a row, or None."""
    if len(cells) != width:
        return f"{len(cells)} columns, expected {width}"
    if not all(field.strip() for field in row):
        return f"an empty text column, expected text in columns {list(text)}"
    return None


def located_label(text: str, parse: ParseLabel, location: str) -> int | float:
    """Return the value of a label.

    Raises:
        ValueError: It is not valid; the message starts with the location.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{location}: {error}; correct the file.") from None
