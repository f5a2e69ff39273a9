"""The five scores of generated text that the E2E challenge reports."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlora.metrics import captions, mteval

NAMES = ("BLEU", "NIST", *captions.NAMES)


@dataclass(frozen=True)
class Scores:
    """Scores by the names of the challenge; BLEU, METEOR and ROUGE_L are in [0, 1].

    Attributes:
        values: The computed scores.
        missing: For each other score, its name and the reason.
    """

    values: dict[str, float]
    missing: dict[str, str]


def score(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Score one output per segment against its references, over the whole corpus.

    Raises:
        ValueError: The numbers of segments differ, or a segment has only empty references.
    """
    ngram_scores = mteval.score(outputs, references)
    caption_scores = captions.score(outputs, references)
    values = {"BLEU": ngram_scores.bleu, "NIST": ngram_scores.nist, **caption_scores.corpus}
    return Scores(values, caption_scores.missing)
