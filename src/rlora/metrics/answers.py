"""The final answer in a generated text, extracted as the public evaluators do.

Source: AGI-Edgerunners/LLM-Adapters@8166572, evaluate.py lines 247-277 and 119-130 (numbers,
letters), and commonsense_evaluate.py lines 265-296 (choices).
"""

import re
from collections.abc import Sequence

TOLERANCE = 1e-3  # largest error of a correct number
_NUMBER = re.compile(r"-?\d+\.?\d*")
_LETTER = re.compile("[A-E]")


def number(text: str) -> float | None:
    """Return the last number of a text, or None.

    Commas are removed first: "1,000" gives 1000, and "1, 000" gives 0. A minus sign directly before
    a digit counts ("5-3" gives -3). Units do not count. The last number of "3/4" is 4.
    """
    numbers = _NUMBER.findall(text.replace(",", ""))
    return float(numbers[-1]) if numbers else None


def letter(text: str) -> str | None:
    """Return the first capital letter from A to E, or None.

    It may be part of a word: "Both are B" gives "B" because of "Both".
    """
    match = _LETTER.search(text)
    return match.group() if match else None


def choice(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice that occurs first in the text, with this spelling, or None.

    Where one choice is a prefix of another ("answer1" and "answer10"), the first in `choices` wins.
    """
    match = re.search("|".join(map(re.escape, choices)), text)
    return match.group() if match else None


def is_correct(answer: float | str | None, expected: float | str) -> bool:
    """Return whether an answer is correct: a number to within 0.001, anything else exactly."""
    if answer is None:
        return False
    if isinstance(expected, str) or isinstance(answer, str):
        return answer == expected
    return abs(answer - expected) <= TOLERANCE
