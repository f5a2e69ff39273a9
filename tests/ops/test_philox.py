"""Named streams and their mapping to values: golden values, an independent generator, moments."""

import numpy as np
import philox_reference
import pytest
import torch

from rlora.ops.philox import RandomSource, fractions, raw_words, signs, symmetric_uniforms

# Random123, tests/kat_vectors, the three "philox4x64 10" lines: counter, key, answer.
KNOWN_ANSWERS = [
    (
        [0, 0, 0, 0],
        [0, 0],
        [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
    ),
    (
        [2**64 - 1] * 4,
        [2**64 - 1] * 2,
        [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
    ),
    (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        [0x452821E638D01377, 0xBE5466CF34E90C6C],
        [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6],
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_published_known_answers(counter, key, answer):
    number = sum(word << 64 * i for i, word in enumerate(counter))
    before = (number - 1) % 2**256  # NumPy increments the counter before every block
    start = np.array([before >> 64 * i & (2**64 - 1) for i in range(4)], dtype=np.uint64)
    generator = np.random.Philox(counter=start, key=np.array(key, dtype=np.uint64))
    assert generator.random_raw(4).tolist() == answer
    assert philox_reference.block(counter, key) == answer


@pytest.mark.parametrize(
    ("seed", "name", "tag"),
    [(0, "", ""), (7, "layer.0", "t"), (-3, "шар", "A/rows"), (2**70, "x", "y")],
)
def test_raw_words_match_the_reference_stream(seed, name, tag):
    assert raw_words(seed, name, tag, 11).tolist() == philox_reference.named_words(
        seed, name, tag, 11
    )


def test_golden_values_of_one_stream():
    source = RandomSource(7, "layer.0")
    assert raw_words(7, "layer.0", "t", 3).tolist() == [
        0x5DA04EBE1D4F2267,
        0x37128E3F8A7E3A17,
        0xA802733A3543CB83,
    ]
    uniforms = source.uniform("u", (6,)).double() * 2**24
    assert uniforms.tolist() == [-12771773, -8728101, -2882655, -15741539, 5039381, 4428033]
    assert source.signs("s", (12,)).tolist() == [-1, -1, -1, -1, 1, -1, 1, -1, -1, 1, 1, 1]
    assert source.permutation("p", 10).tolist() == [1, 4, 6, 3, 9, 7, 2, 8, 5, 0]
    assert source.subset("p", 10, 4).tolist() == [1, 4, 6, 3]
    assert source.sparse_signs("z", (13,), 1 / 3).tolist() == [
        -1,
        0,
        -1,
        -1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        -1,
    ]
    normals = [
        "-0x1.3bae240000000p-1",
        "-0x1.1c5dac0000000p+0",
        "0x1.27a4d60000000p-4",
        "0x1.2afa580000000p+0",
    ]
    assert [value.hex() for value in source.normal("n", (4,)).tolist()] == normals


def test_mappings_of_selected_words():
    words = np.array([0, 2**64 - 1, 0x0123456789ABCDEF], dtype=np.uint64)
    top = 2**24 - 1
    expected = [
        -top,
        -top,
        top,
        top,
        2 * 0x89ABCD + 1 - 2**24,
        2 * 0x012345 + 1 - 2**24,
    ]  # low half first
    assert (symmetric_uniforms(words, 6).astype(np.float64) * 2**24).tolist() == expected
    assert symmetric_uniforms(words, 5).tolist() == symmetric_uniforms(words, 6).tolist()[:5]
    bits = [0x0123456789ABCDEF >> i & 1 for i in range(64)]
    assert signs(words, 192).tolist() == [-1.0] * 64 + [1.0] * 64 + [2.0 * bit - 1 for bit in bits]
    assert fractions(words).tolist() == [
        2.0**-53,
        1 - 2.0**-53,
        (2 * (0x0123456789ABCDEF >> 12) + 1) * 2.0**-53,
    ]


def test_uniforms_are_odd_multiples_with_the_expected_moments():
    values = RandomSource(1, "u").uniform("u", (400, 500)).double().numpy().ravel()
    steps = values * 2**24
    assert (steps == np.round(steps)).all()
    assert (steps % 2 == 1).all()
    assert np.abs(values).max() < 1
    n = len(values)
    assert abs(values.mean()) < 5 * np.sqrt(1 / 3 / n)
    assert abs((values**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / n)
    counts = np.histogram(values, bins=64, range=(-1, 1))[0]
    assert ((counts - n / 64) ** 2 / (n / 64)).sum() < 63 + 6 * np.sqrt(126)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("bound", [1.0, 0.5, 1 / 3, 768**-0.5, 3**0.5])
def test_bounded_uniforms_stay_strictly_inside(bound):
    values = RandomSource(0, "b").uniform("u", (10_000,), bound)
    assert values.dtype == torch.float32
    assert values.abs().max() < bound
    assert torch.equal(
        values,
        RandomSource(0, "b").uniform("u", (10_000,)) * torch.tensor(bound, dtype=torch.float32),
    )


def test_signs_are_balanced_and_uncorrelated():
    values = RandomSource(2, "s").signs("s", (512, 256))
    assert set(values.unique().tolist()) == {-1.0, 1.0}
    n = values.numel()
    assert abs(values.sum()) < 5 * n**0.5
    columns = values.T @ values / 512 - torch.eye(256)
    assert columns.abs().max() < 6 / 512**0.5


@pytest.mark.parametrize("n", [1, 2, 5, 64, 1000])
def test_permutations_and_subsets(n):
    source = RandomSource(3, "p")
    permutation = source.permutation("p", n)
    assert permutation.dtype == torch.int64
    assert sorted(permutation.tolist()) == list(range(n))
    subset = source.subset("q", n, (n + 1) // 2)
    assert len(set(subset.tolist())) == len(subset) == (n + 1) // 2
    assert 0 <= subset.min() <= subset.max() < n


def test_every_position_of_a_permutation_is_uniform():
    permutations = [RandomSource(seed, "p").permutation("p", 6) for seed in range(1200)]
    for values in torch.stack(permutations).T:
        counts = torch.bincount(values, minlength=6).double()
        assert ((counts - 200) ** 2 / 200).sum() < 5 + 6 * 10**0.5


def test_normals_have_the_expected_moments():
    values = RandomSource(4, "n").normal("n", (100_000,)).double()
    assert values.dtype == torch.float64
    assert abs(values.mean()) < 5 / 100_000**0.5
    assert abs(values.var() - 1) < 5 * (2 / 100_000) ** 0.5
    assert abs((values**4).mean() - 3) < 5 * (96 / 100_000) ** 0.5


@pytest.mark.parametrize("density", [1 / 3, 1 / 768**0.5, 0.9])
def test_sparse_signs(density):
    values = RandomSource(5, "z").sparse_signs("z", (100_000,), density)
    assert set(values.unique().tolist()) == {-1.0, 0.0, 1.0}
    n, hits = 100_000, int(values.count_nonzero())
    assert abs(hits - n * density) < 5 * (n * density * (1 - density)) ** 0.5
    assert abs(values.sum()) < 5 * hits**0.5  # both signs are equally likely
    # Zeros of neighbors are independent, and so are their signs.
    first, second = values[:-1], values[1:]
    both = int((first * second).count_nonzero())
    assert abs(both - n * density**2) < 6 * (n * density**2) ** 0.5 * (1 + 2 * density)
    assert abs((first * second).sum()) < 5 * both**0.5


def test_streams_with_different_names_are_different_and_uncorrelated():
    draws = [
        RandomSource(seed, name).uniform(tag, (20_000,))
        for seed, name, tag in [
            (0, "a", "t"),
            (1, "a", "t"),
            (0, "b", "t"),
            (0, "a", "u"),
            (-1, "a", "t"),
            (0, "a\x1ft", ""),
        ]
    ]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlations.abs().max() < 5 / 20_000**0.5


def test_values_do_not_depend_on_how_many_are_generated():
    source = RandomSource(6, "x")
    for draw in (source.uniform, source.signs, source.normal):
        assert torch.equal(draw("t", (7,)), draw("t", (3, 50)).flatten()[:7])


def test_of_changes_only_the_name():
    source = RandomSource(8, "a")
    assert torch.equal(source.of("b").normal("t", (5,)), RandomSource(8, "b").normal("t", (5,)))
    assert RandomSource(8, "a", "meta").of("b") == RandomSource(8, "b", "meta")
