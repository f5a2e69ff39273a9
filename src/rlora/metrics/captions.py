"""METEOR, ROUGE-L and CIDEr-D, by the caption metrics' own code on our tokens."""

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
        corpus: Of the corpus.
        each: Of each segment; the corpus' METEOR is not their mean, for it pools their counts.
        missing: Why the others were not computed.
    """

    corpus: dict[str, float]
    each: dict[str, list[float]]
    missing: dict[str, str]


def score(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Captions:
    """Score one output per segment against its references.

        METEOR   METEOR 1.5, English, in Java
        ROUGE_L  mean of (1 + b^2) P R / (R + b^2 P), b = 1.2; P and R each of the reference where it is best
        CIDEr    10 times the mean tf-idf cosine of 1- to 4-grams, clipped, with a Gaussian length penalty (CIDEr-D)

    Source: pycocoevalcap 1.2 (salaniz/pycocoevalcap), the code of the E2E challenge's scorer, on `rlora.metrics.ptb`.

    Args:
        outputs: A text per segment.
        references: One or more texts per segment.
    """
    if not installed():
        reason = "the package pycocoevalcap is not installed: pip install 'rlora[nlg]'"
        return Captions({}, {}, dict.fromkeys(NAMES, reason))
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    found = {i: [" ".join(tokens(text))] for i, text in enumerate(outputs)}
    sought = {i: [" ".join(tokens(text)) for text in group] for i, group in enumerate(references)}
    results, missing = {}, {}
    try:
        results["METEOR"] = _meteor().compute_score(sought, found)
    except (OSError, ValueError) as error:  # ValueError: it answered something other than a number
        missing["METEOR"] = str(error)
    results["ROUGE_L"] = Rouge().compute_score(sought, found)
    results["CIDEr"] = Cider().compute_score(sought, found)
    corpus = {name: float(value) for name, (value, _) in results.items()}
    return Captions(
        corpus, {name: [float(v) for v in values] for name, (_, values) in results.items()}, missing
    )


def installed() -> bool:
    """Whether the package that computes them is."""
    return importlib.util.find_spec("pycocoevalcap") is not None


def _meteor() -> Any:
    from pycocoevalcap.meteor.meteor import Meteor

    if shutil.which("java") is None:
        raise OSError("METEOR needs Java, and no java is on the PATH")
    with _java_in_utf8():
        return Meteor()


@contextlib.contextmanager
def _java_in_utf8() -> Iterator[None]:
    """Let Java read UTF-8 whatever the locale: before version 18 it reads by the locale."""
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
