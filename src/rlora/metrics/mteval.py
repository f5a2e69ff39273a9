"""BLEU and NIST of a corpus with several references, as NIST's scorer mteval-v13a computes them.

Source: mteval-v13a-sig.pl in tuetschek/e2e-metrics@1b9c4d8, with default options. The code keeps
the peculiarities that change a score, and a comment names each.
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
    # Symbols, without apostrophe, comma, dash and period.
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
Ngrams = Counter[tuple[str, ...]]


def tokens(text: str) -> list[str]:
    """Return the words of a text by mteval-v13a's rules for Western languages.

    Only ASCII letters become lower case.
    """
    text = " ".join(text.split()).replace("<skipped>", "")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} ".translate(_ASCII_LOWER)
    for pattern, replacement in _SPLITS:
        text = pattern.sub(replacement, text)
    return text.split()


@dataclass(frozen=True)
class Scores:
    """The scores that mteval prints: `bleu` in [0, 1]; `nist` in bits, without an upper bound."""

    bleu: float
    nist: float


def score(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Score one output per segment against the segment's references.

        BLEU = exp(min(0, 1 - r / c_1) + 1/4 sum_{n<=4} log(m_n / c_n))
        NIST = BP sum_{n<=5} sum_{matched w} info(w) / c_n
        info(w_1..w_n) = log2(#(w_1..w_{n-1}) / #(w_1..w_n))
        BP = exp(-beta log^2(min(1, c_1 / R))),   beta = log 2 / log^2 1.5

    c_n is the number of n-grams of the outputs and m_n the number of those that match. The first
    m_n of zero counts as 1/2, the next as 1/4, and so on. r is the sum of the reference lengths
    closest to each output, R the mean length of the references, and # counts over all references.

    Args:
        outputs: One text per segment; it may be empty.
        references: One or more texts per segment; empty ones do not count.

    Raises:
        ValueError: The numbers of segments differ, or a segment has only empty references.
    """
    if len(outputs) != len(references) or not outputs:
        raise ValueError(
            f"{len(outputs)} outputs for {len(references)} groups of references; pass one each."
        )
    groups = [list(filter(None, map(tokens, group))) for group in references]
    if empty := [number for number, group in enumerate(groups, start=1) if not group]:
        raise ValueError(f"segment {empty[0]} has no reference with a word in it.")
    tokenized = [tokens(text) for text in outputs]
    return Scores(_bleu(tokenized, groups), _nist(tokenized, groups))


def _ngrams(words: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + n]) for n in range(1, order + 1) for i in range(len(words) - n + 1))


def _matches(words: Sequence[str], group: Sequence[Sequence[str]], order: int) -> Ngrams:
    """Return the matched n-grams of an output, clipped to the largest count in one reference."""
    limit: Ngrams = Counter()
    for reference in group:
        limit |= Counter(_ngrams(reference, order))
    return Counter(_ngrams(words, order)) & limit


def _count_ngrams(outputs: Sequence[Sequence[str]], n: int) -> int:
    """Return c_n."""
    return sum(max(0, len(words) - n + 1) for words in outputs)


def _bleu(outputs: Sequence[Sequence[str]], groups: Sequence[Sequence[Sequence[str]]]) -> float:
    matched: Counter[int] = Counter()
    for words, group in zip(outputs, groups, strict=True):
        for ngram, count in _matches(words, group, BLEU_ORDER).items():
            matched[len(ngram)] += count
    length = _count_ngrams(outputs, 1)
    if not length:
        return 0.0
    closest = sum(
        _closest(len(words), map(len, group)) for words, group in zip(outputs, groups, strict=True)
    )
    total, smooth = 0.0, 1
    for n in range(1, BLEU_ORDER + 1):
        count = _count_ngrams(outputs, n)
        if not count:
            continue  # all outputs are shorter than n: the term is 0, but the mean is over four
        if not matched[n]:
            smooth *= 2
        total += math.log((matched[n] or 1 / smooth) / count)
    return math.exp(min(0.0, 1 - closest / length)) * math.exp(total / BLEU_ORDER)


def _closest(length: int, lengths: Iterator[int]) -> int:
    """Return the reference length closest to an output's; of two equally close, the shorter."""
    return min(lengths, key=lambda other: (abs(other - length), other))


def _nist(outputs: Sequence[Sequence[str]], groups: Sequence[Sequence[Sequence[str]]]) -> float:
    counts: Ngrams = Counter(
        ngram for group in groups for words in group for ngram in _ngrams(words, NIST_ORDER)
    )
    reference_words = sum(len(words) for group in groups for words in group)
    information = [0.0] * (NIST_ORDER + 1)
    for words, group in zip(outputs, groups, strict=True):
        for ngram, count in _matches(words, group, NIST_ORDER).items():
            information[len(ngram)] += count * _information(ngram, counts, reference_words)
    total = sum(
        information[n] / max(1, _count_ngrams(outputs, n)) for n in range(1, NIST_ORDER + 1)
    )
    references_per_segment = sum(map(len, groups)) / len(groups)
    mean_length = reference_words / references_per_segment
    return total * _length_penalty(_count_ngrams(outputs, 1) / mean_length)


def _information(ngram: tuple[str, ...], counts: Ngrams, reference_words: int) -> float:
    history = ngram[:-1]
    # In Perl the history "0" is false, so mteval treats it as empty.
    before = reference_words if history in ((), ("0",)) else counts[history]
    return math.log2(before / counts[ngram])


def _length_penalty(ratio: float) -> float:
    if ratio >= 1:
        return 1.0
    if ratio <= 0:
        return 0.0
    return math.exp(-math.log(2) / math.log(1.5) ** 2 * math.log(ratio) ** 2)
