"""Files of questions with answers: GSM8K's JSON lines, and the JSON lists of LLM-Adapters."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlora.io.json_values import Located, read_json, read_json_lines

_CALCULATION = re.compile(r"<<[^>]*>>")  # GSM8K's calculator annotations
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d*)?")  # thousands with commas
_MARKER = "####"


@dataclass(frozen=True)
class Question:
    """One row of a file.

    Attributes:
        instruction: The question.
        input: Text that the question refers to, or "".
        output: The answer in full, with its reasoning.
        answer: The final answer.
        location: File and row.
    """

    instruction: str
    input: str
    output: str
    answer: str
    location: str


def read_questions(file: Path) -> list[Question]:
    """Read the questions of a file.

    It holds GSM8K's rows (question, answer) or LLM-Adapters' (instruction, input, output, answer),
    as JSON lines where its name ends in .jsonl or .ndjson, else as a JSON list. In GSM8K's rows the
    final answer follows "####"; an answer without it is the final one as a whole.

    Raises:
        ValueError: The file is neither or has no rows, or a row lacks a field or holds another type
            there; the message names file and row.
    """
    is_lines = file.suffix.lower() in (".jsonl", ".ndjson")
    rows = read_json_lines(file) if is_lines else _list_rows(file)
    questions = [_question(row, location) for location, row in rows]
    if not questions:
        raise ValueError(f"{file} has no rows; put a complete file under task.path.")
    return questions


def _list_rows(file: Path) -> Iterable[Located]:
    rows = read_json(file)
    if not isinstance(rows, list):
        raise ValueError(
            f"{file} holds one {type(rows).__name__}, expected a list; name a file of JSON lines "
            "*.jsonl"
        )
    return ((f"{file}, row {number}", row) for number, row in enumerate(rows, start=1))


def _question(row: Any, location: str) -> Question:
    if isinstance(row, dict) and {"question", "answer"} <= row.keys():
        solution = _CALCULATION.sub("", _answer(row, location))
        answer = final_answer(row, location)
        return Question(_text(row, "question", location), "", solution, answer, location)
    if isinstance(row, dict) and {"instruction", "output", "answer"} <= row.keys():
        return Question(
            _text(row, "instruction", location),
            "" if row.get("input") is None else _text(row, "input", location, empty=True),
            _text(row, "output", location, empty=True),
            final_answer(row, location),
            location,
        )
    raise ValueError(
        f"{location}: expected the keys question and answer, or instruction, output and answer"
    )


def final_answer(row: Mapping[str, Any], location: str) -> str:
    """Return the final answer of a row, which in GSM8K's rows is what follows "####".

    Raises:
        ValueError: The answer is empty, or no text or number.
    """
    answer = _answer(row, location)
    if "question" not in row:
        return answer
    answer = answer.rpartition(_MARKER)[2].strip()
    return answer.replace(",", "") if _GROUPED.fullmatch(answer) else answer


def _text(row: Mapping[str, Any], key: str, location: str, *, empty: bool = False) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise ValueError(f"{location}: its {key} is {json.dumps(value)[:40]}, expected a text")
    if not empty and not value.strip():
        raise ValueError(f"{location}: its {key} is empty")
    return value


def _answer(row: Mapping[str, Any], location: str) -> str:
    """Return an answer as text; a JSON number or true and false are written as JSON writes them."""
    value = row["answer"]
    if isinstance(value, int | float):
        return json.dumps(value)
    return _text(row, "answer", location)
