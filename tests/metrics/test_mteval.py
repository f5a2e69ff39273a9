"""BLEU and NIST: small texts by hand, and the peculiarities of the official scorer."""

import math
import random

import pytest

from rlora.metrics.mteval import score, tokens

WORDS = ("the", "cat", "sat", "on", "a", "mat", "0", "3.5", "£20")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Blue Spice isn't cheap.", "blue spice isn't cheap ."),
        ("It costs £3.50, or 20-25.", "it costs £3.50 , or 20 - 25 ."),
        ("family-friendly (yes)", "family-friendly ( yes )"),
        ("a.b 5.x x.5 1,000", "a . b 5 . x x . 5 1,000"),
        ("A&amp;E &quot;x&quot; <skipped>y", 'a & e " x " y'),
        ("CAFÉ ÉTÉ", "cafÉ ÉtÉ"),  # only ASCII letters become lower case
        ("  two \t spaces\n", "two spaces"),
        ("", ""),
    ],
)
def test_tokens(text, expected):
    assert tokens(text) == expected.split()


def test_bleu_by_hand():
    # 6 words against 7. The reference has "the" twice, "cat", "sat", "on"; the output has "the"
    # three times.
    scores = score(["the cat sat on the the"], [["the cat sat on the mat there"]])
    precisions = [5 / 6, 4 / 5, 3 / 4, 2 / 3]
    expected = math.exp(1 - 7 / 6) * math.prod(precisions) ** 0.25
    assert scores.bleu == pytest.approx(expected, rel=1e-12)


def test_an_order_without_matches_counts_half_and_the_next_a_quarter():
    scores = score(["a b c d e"], [["a b x d e"]])
    assert scores.bleu == pytest.approx(
        (4 / 5 * 2 / 4 * (1 / 2) / 3 * (1 / 4) / 2) ** 0.25, rel=1e-12
    )


def test_the_mean_of_a_short_output_is_still_over_four_orders():
    assert score(["a b"], [["a b"]]).bleu == 1.0
    assert score(["a x"], [["a b"]]).bleu == pytest.approx((1 / 2 * 1 / 2) ** 0.25, rel=1e-12)


def test_of_two_equally_close_reference_lengths_the_shorter_counts():
    assert score(["a b c"], [["a b c d", "a b"]]).bleu == pytest.approx(1.0)  # no penalty


def test_nist_by_hand():
    references = [["a b"], ["a c"]]
    # info: a: log2(4 / 2) = 1, b and c: log2(4 / 1) = 2; "a b": log2(2 / 1) = 1
    scores = score(["a b", "a b"], references)
    assert scores.nist == pytest.approx((1 + 2 + 1) / 4 + 1 / 2, rel=1e-12)


def test_nist_uses_the_mean_length_of_the_references():
    scores = score(["a b c d"], [["a b c d", "a b c d e f g h"]])
    assert scores.nist == pytest.approx(_nist_by_hand(), rel=1e-12)


def _nist_by_hand():
    words, histories = 12, 2
    unigrams = 4 * math.log2(words / histories)
    penalty = math.exp(-math.log(2) / math.log(1.5) ** 2 * math.log(4 / 6) ** 2)
    # Longer n-grams have no information, because their history determines them.
    return penalty * unigrams / 4


def test_the_history_0_is_empty_as_in_perl():
    # With the history "0" the information of "0 x" would be 0.
    with_zero = score(["0 x y"], [["0 x y", "0 x z"]]).nist
    with_one = score(["1 x y"], [["1 x y", "1 x z"]]).nist
    assert with_zero == pytest.approx(with_one + math.log2(6 / 2) / 2, rel=1e-12)


def test_empty_references_do_not_count():
    assert score(["a b c"], [["a b c", "", " "]]) == score(["a b c"], [["a b c"]])


def test_empty_outputs_score_zero():
    scores = score(["", ""], [["a b"], ["c d"]])
    assert scores.bleu == scores.nist == 0.0


@pytest.mark.parametrize(
    ("outputs", "references", "message"),
    [
        (["a"], [["a"], ["b"]], "1 outputs for 2 groups"),
        ([], [], "0 outputs for 0 groups"),
        (["a", "b"], [["a"], ["", " "]], "segment 2 has no reference"),
    ],
)
def test_mismatched_numbers_raise(outputs, references, message):
    with pytest.raises(ValueError, match=message):
        score(outputs, references)


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_bounded_and_ignore_the_order_of_references(seed):
    rng = random.Random(seed)

    def text():
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 9)))

    outputs = [text() for _ in range(rng.randint(1, 4))]
    references = [[text() for _ in range(rng.randint(1, 3))] for _ in outputs]
    scores = score(outputs, references)
    assert 0 <= scores.bleu <= 1
    assert scores.nist >= 0
    reversed_scores = score(outputs, [group[::-1] for group in references])
    assert reversed_scores.bleu == pytest.approx(scores.bleu, rel=1e-12)
    assert reversed_scores.nist == pytest.approx(scores.nist, rel=1e-12)
    assert score([group[0] for group in references], references).bleu == pytest.approx(1.0)
