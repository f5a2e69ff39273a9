"""The answer in a generated text, found as the public evaluators find it, and whether it is right.

Source: AGI-Edgerunners/LLM-Adapters@8166572, evaluate.py lines 247-277 and 119-130 (numbers, letters), and
commonsense_evaluate.py lines 265-296 (choices).
"""

import re
from collections.abc import Sequence

TOLERANCE = 1e-3  # of a number
_NUMBER = re.compile(r"-?\d+\.?\d*")
_LETTER = re.compile("[A-E]")


def number(text: str) -> float | None:
    """Return the last number of a text, or None.

    Commas are dropped beforehand, whatever they part: "1,000" is 1000, and so is "1, 000" 0. A minus sign counts
    wherever it touches a digit ("5-3" ends in -3), units do not count, and of "3/4" the last number is 4.
    """
    found = _NUMBER.findall(text.replace(",", ""))
    return float(found[-1]) if found else None


def letter(text: str) -> str | None:
    """Return the first capital letter from A to E, even inside a word ("Both are B" is "B" for "Both"), or None."""
    found = _LETTER.search(text)
    return found.group() if found else None


def choice(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice that is named first, in this very spelling, or None.

    Where one choice begins another ("answer1" and "answer10"), the one that stands first in ``choices`` is found.
    """
    found = re.search("|".join(map(re.escape, choices)), text)
    return found.group() if found else None


def is_right(found: float | str | None, sought: float | str) -> bool:
    """Whether an answer is right: a number to within 0.001, anything else exactly."""
    if found is None:
        return False
    if isinstance(sought, str) or isinstance(found, str):
        return found == sought
    return abs(found - sought) <= TOLERANCE
