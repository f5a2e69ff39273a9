"""BLEU and NIST: by hand on small texts, and where the official scorer is peculiar."""

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
        ("CAFÉ ÉTÉ", "cafÉ ÉtÉ"),  # ASCII letters alone are lowered
        ("  two \t spaces\n", "two spaces"),
        ("", ""),
    ],
)
def test_tokens(text, expected):
    assert tokens(text) == expected.split()


def test_bleu_by_hand():
    # 6 words against 7: the reference has "the" twice, "cat", "sat", "on"; the output says "the" three times
    scores = score(["the cat sat on the the"], [["the cat sat on the mat there"]])
    precisions = [5 / 6, 4 / 5, 3 / 4, 2 / 3]
    expected = math.exp(1 - 7 / 6) * math.prod(precisions) ** 0.25
    assert scores.bleu == pytest.approx(expected, rel=1e-12)


def test_an_order_without_a_match_counts_half_and_the_next_a_quarter():
    scores = score(["a b c d e"], [["a b x d e"]])
    assert scores.bleu == pytest.approx(
        (4 / 5 * 2 / 4 * (1 / 2) / 3 * (1 / 4) / 2) ** 0.25, rel=1e-12
    )


def test_an_output_shorter_than_four_words_is_averaged_over_four_all_the_same():
    assert score(["a b"], [["a b"]]).bleu == 1.0
    assert score(["a x"], [["a b"]]).bleu == pytest.approx((1 / 2 * 1 / 2) ** 0.25, rel=1e-12)


def test_of_two_reference_lengths_as_close_the_shorter_counts():
    assert score(["a b c"], [["a b c d", "a b"]]).bleu == pytest.approx(1.0)  # no penalty


def test_nist_by_hand():
    references = [["a b"], ["a c"]]
    # info: a: log2(4 / 2) = 1, b and c: log2(4 / 1) = 2; "a b": log2(2 / 1) = 1
    scores = score(["a b", "a b"], references)
    assert scores.nist == pytest.approx((1 + 2 + 1) / 4 + 1 / 2, rel=1e-12)


def test_nist_of_unequally_many_references_takes_the_mean_length():
    scores = score(["a b c d"], [["a b c d", "a b c d e f g h"]])
    assert scores.nist == pytest.approx(_information_of_all(), rel=1e-12)


def _information_of_all():
    words, histories = 12, 2
    unigrams = 4 * math.log2(words / histories)
    penalty = math.exp(-math.log(2) / math.log(1.5) ** 2 * math.log(4 / 6) ** 2)
    return (
        penalty * unigrams / 4
    )  # every longer n-gram is certain given its history: no information


def test_the_history_0_is_none_as_in_perl():
    # "0 x" twice: by its history "0" its information would be 0
    with_zero = score(["0 x y"], [["0 x y", "0 x z"]]).nist
    with_one = score(["1 x y"], [["1 x y", "1 x z"]]).nist
    assert with_zero == pytest.approx(with_one + math.log2(6 / 2) / 2, rel=1e-12)


def test_empty_references_do_not_count():
    assert score(["a b c"], [["a b c", "", " "]]) == score(["a b c"], [["a b c"]])


def test_empty_outputs_score_nothing():
    scores = score(["", ""], [["a b"], ["c d"]])
    assert scores.bleu == scores.nist == 0.0


@pytest.mark.parametrize(
    ("outputs", "references", "said"),
    [
        (["a"], [["a"], ["b"]], "1 outputs for 2 groups"),
        ([], [], "0 outputs for 0 groups"),
        (["a", "b"], [["a"], ["", " "]], "segment 2 has no reference"),
    ],
)
def test_wrong_numbers_are_refused(outputs, references, said):
    with pytest.raises(ValueError, match=said):
        score(outputs, references)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_bounded_and_blind_to_the_order_of_references(seed):
    draw = random.Random(seed)

    def text():
        return " ".join(draw.choices(WORDS, k=draw.randint(1, 9)))

    outputs = [text() for _ in range(draw.randint(1, 4))]
    references = [[text() for _ in range(draw.randint(1, 3))] for _ in outputs]
    found = score(outputs, references)
    assert 0 <= found.bleu <= 1
    assert found.nist >= 0
    turned = score(outputs, [group[::-1] for group in references])
    assert turned.bleu == pytest.approx(found.bleu, rel=1e-12)
    assert turned.nist == pytest.approx(found.nist, rel=1e-12)
    assert score([group[0] for group in references], references).bleu == pytest.approx(1.0)
