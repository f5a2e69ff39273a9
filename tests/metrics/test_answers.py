"""Final answers in generated text, in the cases where evaluators differ."""

import json
import os
from pathlib import Path

import pytest

from rlora.metrics.answers import (
    choice,
    is_correct,
    letter,
    number,
    number_like,
    parse_number,
    response,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 42.", 42.0),
        ("so she has 3 apples and 5 pears, 8 in all", 8.0),
        ("It costs $1,234,567.50 in total", 1_234_567.5),
        ("1,000", 1000.0),
        ("-7 degrees", -7.0),
        ("5-3", -3.0),
        ("5 - 3 = 2", 2.0),
        ("3/4", 4.0),
        ("12 km/h", 12.0),
        ("50%", 50.0),
        ("0.5", 0.5),
        (".5", 5.0),
        ("3.", 3.0),
        ("1.2.3", 3.0),
        ("#### 18", 18.0),
        ("x2y", 2.0),
        ("no number at all", None),
        ("", None),
        ("-", None),
        ("9" * 400, None),
        ("\u22125", 5.0),  # LLM-Adapters' pattern does not know U+2212
    ],
)
def test_the_last_number(text, expected):
    assert number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", 2.0),
        ("2.", 2.0),
        (" -1.5 ", -1.5),
        (".5", 0.5),
        ("$18", 18.0),
        ("-$5", -5.0),
        ("$-5", -5.0),
        ("5\u20ac", 5.0),
        ("50%", 50.0),
        ("3/4", 0.75),
        ("-3/4", -0.75),
        ("1,234", 1234.0),
        ("12,34,567", 1_234_567.0),
        ("$1,234,567.50", 1_234_567.5),
        ("\u22125", -5.0),
        ("1e3", 1000.0),
    ],
)
def test_reference_numbers(text, expected):
    assert parse_number(text) == expected


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "18 dollars", "1,5", "1 1/2", "x", "--5", "1_0"]
)
def test_other_references_are_no_number(text):
    with pytest.raises(ValueError, match="is no number"):
        parse_number(text)


@pytest.mark.parametrize("text", ["9" * 400, "1e999", "3/0"])
def test_a_reference_is_finite(text):
    with pytest.raises(ValueError, match=r"the answer '.{1,40}' is no finite number"):
        parse_number(text)


@pytest.mark.parametrize(
    ("reference", "text", "expected"),
    [
        ("3/4", "so it is 3/4.", 0.75),
        ("3/4", "so it is 0.75", 0.75),
        ("3/4", "8/0", 0.0),
        ("\u22125", "it is \u22125", -5.0),
        ("$18", "36/2", 2.0),
        ("1e3", "about 1e3 of them", 1000.0),
        ("18", "about 1e3 of them", 3.0),
        ("-.5", "it is -.5", -0.5),
        ("-$5", "a loss: -$5", -5.0),
        ("-$5", "a loss of $5", 5.0),
    ],
)
def test_outputs_are_read_in_the_notation_of_the_reference(reference, text, expected):
    assert number_like(reference, text) == expected


@pytest.mark.parametrize(
    "reference",
    [
        *("18", "-5", "+5", "1,234.5", "12,34,567", "$18", "-$5", "$-5", "$ 5", "50 %", "1e3"),
        *("1.5E-3", "2e-5", ".5", "-.5", "5.", "3/4", "-3 / 4", "1,000/4", ".5/.25", "6/6"),
        *("\u22125", "18 \u20ac"),
    ],
)
def test_a_reference_is_a_correct_answer_to_itself(reference):
    assert is_correct(number_like(reference, f"It is {reference}"), parse_number(reference))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" It is 4.\n", "It is 4."),
        ("4\n\n### Response:\n5", "4"),
        ("4\n### Instruction: 5", "4\n### Instruction: 5"),
        ("### Response: 5", ""),
    ],
)
def test_a_repeated_marker_ends_the_response(text, expected):
    assert response(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is B.", "B"),
        ("(D)", "D"),
        ("Both are B", "B"),
        ("Answer: C", "A"),
        ("F or G", None),
        ("the answer is b", None),
        ("", None),
    ],
)
def test_the_first_letter(text, expected):
    assert letter(text) == expected


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("the correct answer is true", ("true", "false"), "true"),
        ("false, not true", ("true", "false"), "false"),
        ("the correct answer is answer3", [f"answer{i}" for i in range(1, 6)], "answer3"),
        ("solution 1", ("solution1", "solution2"), None),
        ("True", ("true", "false"), None),
        ("ending4ending1", [f"ending{i}" for i in range(1, 5)], "ending4"),
        ("it is answer10", [f"answer{i}" for i in range(1, 11)], "answer10"),
        ("", ("true", "false"), None),
    ],
)
def test_the_first_choice(text, choices, expected):
    assert choice(text, choices) == expected


@pytest.mark.parametrize(
    ("answer", "expected", "correct"),
    [
        (3.0005, 3.0, True),
        (3.002, 3.0, False),
        (None, 3.0, False),
        ("A", "A", True),
        ("A", "B", False),
        (None, "A", False),
        ("3", 3.0, False),
    ],
)
def test_is_correct(answer, expected, correct):
    assert is_correct(answer, expected) is correct


@pytest.mark.data
def test_the_solutions_of_gsm8k_give_their_answers():
    path = Path(os.environ["RLORA_DATA"]) / "math" / "gsm8k" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    final = [number(row["answer"].rpartition("####")[2]) for row in rows]
    assert len(rows) == 1319
    assert None not in final
    assert all(
        is_correct(number(row["answer"]), value) for row, value in zip(rows, final, strict=True)
    )


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "choices"),
    [
        ("boolq", ("true", "false")),
        ("piqa", ("solution1", "solution2")),
        ("winogrande", ("option1", "option2")),
        ("social_i_qa", [f"answer{i}" for i in range(1, 6)]),
        ("ARC-Easy", [f"answer{i}" for i in range(1, 6)]),
        ("ARC-Challenge", [f"answer{i}" for i in range(1, 6)]),
        ("openbookqa", [f"answer{i}" for i in range(1, 6)]),
    ],
)
def test_the_outputs_of_commonsense_give_their_answers(folder, choices):
    root = Path(os.environ["RLORA_DATA"]) / "commonsense" / "llm_adapters"
    rows = json.loads((root / folder / "test.json").read_text())
    assert all(choice(row["output"], choices) == row["answer"] for row in rows)
