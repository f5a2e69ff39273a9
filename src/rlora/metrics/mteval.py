"""BLEU and NIST over a corpus with several references, as NIST's scorer mteval-v13a computes them.

Source: mteval-v13a-sig.pl as shipped with tuetschek/e2e-metrics@1b9c4d8, options at their defaults. Its peculiarities
are kept where they change a score, and told where they stand.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BLEU_ORDER = 4
NIST_ORDER = 5
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SPLITS = (
    (
        re.compile(r"([{-~\[-` -&(-+:-@/])"),
        r" \1 ",
    ),  # symbols; apostrophe, comma, dash and period are not among them
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
Ngrams = Counter[tuple[str, ...]]


def tokens(text: str) -> list[str]:
    """Return the words of a text, ASCII letters in lower case, by mteval-v13a's rules for Western languages."""
    text = " ".join(text.split()).replace("<skipped>", "")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} ".translate(_ASCII_LOWER)
    for pattern, replacement in _SPLITS:
        text = pattern.sub(replacement, text)
    return text.split()


@dataclass(frozen=True)
class Scores:
    """What mteval prints: ``bleu`` in [0, 1], ``nist`` in bits, not bounded above."""

    bleu: float
    nist: float


def score(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Score one output per segment against the segment's references.

    With m_n matched and c_n counted n-grams of the outputs, r the sum of the reference lengths closest to each output:

        BLEU = exp(min(0, 1 - r / c_1) + 1/4 sum_{n<=4} log(m_n / c_n))
        NIST = BP sum_{n<=5} sum_{matched w} info(w) / c_n,   info(w_1..w_n) = log2(#(w_1..w_{n-1}) / #(w_1..w_n))

    where an m_n of zero counts as 1/2, the next one as 1/4, and so on; # counts over all references; and
    BP = exp(-beta log^2(min(1, c_1 / R))) with R the mean reference length and beta = log 2 / log^2 1.5.

    Args:
        outputs: A text per segment; it may be empty.
        references: One or more texts per segment; empty ones do not count.

    Raises:
        ValueError: the numbers of segments differ, or a segment has no reference that is not empty.
    """
    if len(outputs) != len(references) or not outputs:
        raise ValueError(
            f"{len(outputs)} outputs for {len(references)} groups of references; give one each."
        )
    sought = [[words for text in group if (words := tokens(text))] for group in references]
    if empty := [number for number, group in enumerate(sought, start=1) if not group]:
        raise ValueError(f"segment {empty[0]} has no reference with a word in it.")
    found = [tokens(text) for text in outputs]
    return Scores(_bleu(found, sought), _nist(found, sought))


def _ngrams(words: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + n]) for n in range(1, order + 1) for i in range(len(words) - n + 1))


def _matches(words: Sequence[str], group: Sequence[Sequence[str]], order: int) -> Ngrams:
    """N-grams of an output, each as often as in the reference that has it most."""
    most: Ngrams = Counter()
    for reference in group:
        most |= Counter(_ngrams(reference, order))
    return Counter(_ngrams(words, order)) & most


def _counted(found: Sequence[Sequence[str]], n: int) -> int:
    return sum(max(0, len(words) - n + 1) for words in found)


def _bleu(found: Sequence[Sequence[str]], sought: Sequence[Sequence[Sequence[str]]]) -> float:
    matched: Counter[int] = Counter()
    for words, group in zip(found, sought, strict=True):
        for ngram, count in _matches(words, group, BLEU_ORDER).items():
            matched[len(ngram)] += count
    length = _counted(found, 1)
    if not length:
        return 0.0
    closest = sum(
        _closest(len(words), map(len, group)) for words, group in zip(found, sought, strict=True)
    )
    total, smooth = 0.0, 1
    for n in range(1, BLEU_ORDER + 1):
        if not (counted := _counted(found, n)):
            continue  # outputs shorter than n words: the logarithm counts as 0, the mean is still over four
        if not matched[n]:
            smooth *= 2
        total += math.log((matched[n] or 1 / smooth) / counted)
    return math.exp(min(0.0, 1 - closest / length)) * math.exp(total / BLEU_ORDER)


def _closest(length: int, lengths: Iterator[int]) -> int:
    """The reference length closest to an output's; of two as close, the shorter."""
    return min(lengths, key=lambda other: (abs(other - length), other))


def _nist(found: Sequence[Sequence[str]], sought: Sequence[Sequence[Sequence[str]]]) -> float:
    counts: Ngrams = Counter(
        ngram for group in sought for words in group for ngram in _ngrams(words, NIST_ORDER)
    )
    words_in_all = sum(len(words) for group in sought for words in group)
    gained = [0.0] * (NIST_ORDER + 1)
    for words, group in zip(found, sought, strict=True):
        for ngram, count in _matches(words, group, NIST_ORDER).items():
            gained[len(ngram)] += count * _information(ngram, counts, words_in_all)
    total = sum(gained[n] / max(1, _counted(found, n)) for n in range(1, NIST_ORDER + 1))
    mean_references = sum(map(len, sought)) / len(sought)  # of each segment
    return total * _length_penalty(_counted(found, 1) / (words_in_all / mean_references))


def _information(ngram: tuple[str, ...], counts: Ngrams, words_in_all: int) -> float:
    # in Perl the history "0" is false, and counts as none
    before = counts[ngram[:-1]] if ngram[:-1] not in ((), ("0",)) else words_in_all
    return math.log2(before / counts[ngram])


def _length_penalty(ratio: float) -> float:
    if ratio >= 1:
        return 1.0
    if ratio <= 0:
        return 0.0
    return math.exp(-math.log(2) / math.log(1.5) ** 2 * math.log(ratio) ** 2)
