"""METEOR, ROUGE-L and CIDEr-D: pycocoevalcap's code on the tokens of `rlora.metrics.ptb`."""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlora.metrics.ptb import tokens

NAMES = ("METEOR", "ROUGE_L", "CIDEr")


@dataclass(frozen=True)
class Captions:
    """Scores by name.

    Attributes:
        corpus: Scores of the corpus.
        segments: Scores of each segment. METEOR of the corpus is not their mean, because it pools
            the counts of all segments.
        missing: For each other score, its name and the reason.
    """

    corpus: dict[str, float]
    segments: dict[str, list[float]]
    missing: dict[str, str]


def score(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Captions:
    """Score one output per segment against its references.

        METEOR   METEOR 1.5, English, in Java
        ROUGE_L  mean of (1 + b^2) P R / (R + b^2 P), b = 1.2; P and R each of their best reference
        CIDEr    CIDEr-D: 10 times the mean tf-idf cosine of clipped 1- to 4-grams, with a Gaussian
                 length penalty

    Source: pycocoevalcap 1.2 (salaniz/pycocoevalcap), the code of the E2E challenge's scorer.

    Args:
        outputs: One text per segment.
        references: One or more texts per segment.
    """
    if not installed():
        reason = "the package pycocoevalcap is not installed: pip install 'rlora[nlg]'"
        return Captions({}, {}, dict.fromkeys(NAMES, reason))
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    tokenized = {i: [" ".join(tokens(text))] for i, text in enumerate(outputs)}
    expected = {i: [" ".join(tokens(text)) for text in group] for i, group in enumerate(references)}
    if wordless := [i + 1 for i, group in expected.items() if not any(group)]:
        reason = f"segment {wordless[0]} has no reference with a word in it"
        return Captions({}, {}, dict.fromkeys(NAMES, reason))
    results, missing = {}, {}
    try:
        results["METEOR"] = _meteor().compute_score(expected, tokenized)
    except (
        OSError,
        ValueError,
    ) as error:  # ValueError: Java answered something other than a number
        missing["METEOR"] = str(error)
    results["ROUGE_L"] = Rouge().compute_score(expected, tokenized)
    if len(outputs) > 1:
        results["CIDEr"] = Cider().compute_score(expected, tokenized)
    else:  # the weight log(N / N) of every n-gram is 0
        missing["CIDEr"] = "it weights words by the segments they are in, and there is one segment"
    corpus = {name: float(value) for name, (value, _) in results.items()}
    segments = {name: [float(value) for value in values] for name, (_, values) in results.items()}
    return Captions(corpus, segments, missing)


def installed() -> bool:
    """Return whether the package that computes the scores is installed."""
    return importlib.util.find_spec("pycocoevalcap") is not None


def _meteor() -> Any:
    """Start METEOR's Java process."""
    from pycocoevalcap.meteor.meteor import Meteor

    if shutil.which("java") is None:
        raise OSError("METEOR needs Java, and no java is on the PATH")
    with _java_in_utf8():
        return Meteor()


@contextlib.contextmanager
def _java_in_utf8() -> Iterator[None]:
    """Let Java read UTF-8; before version 18 it uses the encoding of the locale."""
    name = "JAVA_TOOL_OPTIONS"
    before = os.environ.get(name)
    os.environ[name] = f"{before or ''} -Dfile.encoding=UTF-8".strip()
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
