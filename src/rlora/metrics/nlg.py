"""The five scores of generated text that the E2E challenge reports."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlora.metrics import captions, mteval

NAMES = ("BLEU", "NIST", *captions.NAMES)


@dataclass(frozen=True)
class Scores:
    """Scores by the challenge's names, in its units (BLEU, METEOR and ROUGE_L in [0, 1]).

    Attributes:
        values: What was computed.
        missing: Why the others were not.
    """

    values: dict[str, float]
    missing: dict[str, str]


def score(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Score one output per segment against its references, over the whole corpus.

    Raises:
        ValueError: the numbers of segments differ, or a segment has no reference with a word in it.
    """
    words = mteval.score(outputs, references)
    others = captions.score(outputs, references)
    return Scores({"BLEU": words.bleu, "NIST": words.nist, **others.corpus}, others.missing)
