"""The final answer in a generated text, extracted as the public evaluators do.

Source: AGI-Edgerunners/LLM-Adapters@8166572, evaluate.py lines 68 (marker), 94-118 (comparison) and
272-298 (numbers, letters), and commonsense_evaluate.py lines 67 and 265-296 (choices). That
evaluator reads reference numbers by `float`; `parse_number` reads more notations. Outputs are read
in them only where the evaluator's reading of the reference itself, as an output, is another number:
a fraction, "1e3", ".5", "-$5" or U+2212. Otherwise such a reference would not match itself.
"""

import math
import re
from collections.abc import Sequence

TOLERANCE = 1e-3  # largest error of a correct number
LETTERS = ("A", "B", "C", "D", "E")
_RESPONSE = "### Response:"  # ends the prompt; a model that repeats it starts another task
_NUMBER = re.compile(r"-?\d+\.?\d*")
_MINUS = "\u2212"
_LETTER = re.compile("[A-E]")
_CURRENCY = "[$\u00a3\u20ac\u00a5\u20b9]"
_PLAIN = r"(?:\d{1,3}(?:,\d{2,3})*,\d{3}|\d+)(?:\.\d*)?|\.\d+"
_REFERENCE = re.compile(
    rf"(?P<sign>[+-]?)(?:{_CURRENCY}\s*)?(?P<inner>[+-]?)(?P<value>{_PLAIN})"
    r"(?P<exponent>[eE][+-]?\d+)?"
    rf"(?:\s*/\s*(?P<divisor>{_PLAIN}))?\s*(?:%|{_CURRENCY})?\.?",
    re.ASCII,
)
_DIGITS = r"(?:\d+\.?\d*|\.\d+)"
_EXTENDED = re.compile(
    rf"(?P<sign>-?)(?:{_CURRENCY}\s*)?(?P<inner>-?)(?P<value>{_DIGITS})(?P<exponent>[eE][+-]?\d+)?"
    rf"(?:\s*/\s*(?P<divisor>{_DIGITS}))?",
    re.ASCII,
)


def response(text: str) -> str:
    """Return a generated text up to a repeated "### Response:", without outer white space.

    The public evaluators split prompt and text together at this marker and take the second piece,
    which is the same unless the question holds the marker.
    """
    return text.partition(_RESPONSE)[0].strip()


def number(text: str) -> float | None:
    """Return the last number of a text, or None.

    Commas are removed first: "1,000" gives 1000, and "1, 000" gives 0. A minus sign directly before
    a digit counts ("5-3" gives -3). Units do not count. The last number of "3/4" is 4. A number
    beyond the floats counts as none: the public evaluator's infinity equals no reference either.
    """
    numbers = _NUMBER.findall(text.replace(",", ""))
    return _finite(float(numbers[-1])) if numbers else None


def number_like(reference: str, text: str) -> float | None:
    """Return the last number of a text, in the notation of the reference answer."""
    plain = "/" not in reference and is_correct(number(reference), parse_number(reference))
    return number(text) if plain else extended_number(text)


def extended_number(text: str) -> float | None:
    """Return the last number of a text in the notations of `parse_number`.

    Units do not count. "3/4" gives 0.75, and the number in "8/0" is 0.
    """
    matches = list(_EXTENDED.finditer(text.replace(",", "").replace(_MINUS, "-")))
    if not matches:
        return None
    if (value := _value(matches[-1])) is None:
        return 0.0
    return _finite(value)


def parse_number(text: str) -> float:
    """Return the value of a reference answer.

    Currency signs, thousands separators and a percent sign do not count ("$1,234" gives 1234, "50%"
    gives 50), a fraction gives its value ("3/4" gives 0.75), and U+2212 is a minus.

    Raises:
        ValueError: The text is no single finite number.
    """
    match = _REFERENCE.fullmatch(text.strip().replace(_MINUS, "-"))
    if match is None or (match["sign"] and match["inner"]):
        raise ValueError(f"the answer {shortened(text)!r} is no number")
    value = _value(match)
    if value is None or not math.isfinite(value):
        raise ValueError(f"the answer {shortened(text)!r} is no finite number")
    return value


def shortened(text: str) -> str:
    """Return at most 40 characters of a text, for messages."""
    return text if len(text) <= 40 else f"{text[:37]}..."


def letter(text: str) -> str | None:
    """Return the first capital letter from A to E, or None.

    It may be part of a word: "Both are B" gives "B" because of "Both".
    """
    match = _LETTER.search(text)
    return match.group() if match else None


def choice(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice that occurs first in the text, with this spelling, or None.

    Where one choice is a prefix of another ("answer1" and "answer10"), the longer one wins.
    """
    longest_first = sorted(choices, key=len, reverse=True)
    match = re.search("|".join(map(re.escape, longest_first)), text)
    return match.group() if match else None


def is_correct(answer: float | str | None, expected: float | str) -> bool:
    """Return whether an answer is correct: a number to within 0.001, anything else exactly."""
    if answer is None:
        return False
    if isinstance(expected, str) or isinstance(answer, str):
        return answer == expected
    return abs(answer - expected) <= TOLERANCE


def _value(match: re.Match[str]) -> float | None:
    """Return the value of a match of sign, value, exponent and divisor; None for a divisor of 0."""
    value = float(match["value"].replace(",", "") + (match["exponent"] or ""))
    if match["divisor"] is not None:
        divisor = float(match["divisor"].replace(",", ""))
        if not divisor:
            return None
        value /= divisor
    return -value if "-" in match["sign"] + match["inner"] else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
