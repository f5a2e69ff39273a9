"""The laws of the start values and the random bases."""

import math

import adapter_zoo as zoo
import naive_updates
import pytest
import torch

from rlora.adapters import Site
from rlora.adapters.nola import NOLA
from rlora.adapters.randlora import BASES, RandLoRA, draw_basis
from rlora.adapters.rlora import RLoRA
from rlora.ops.philox import RandomSource

SHAPE = (48, 100)  # out, in: neither a power of two


def many(method, count=150):
    return method.build([Site(f"layer.{i}", *SHAPE) for i in range(count)], RandomSource(0))


@pytest.mark.parametrize("transform", ["srht", "fastfood"])
@pytest.mark.parametrize("shape", [(48, 100), (64, 64)])
def test_entries_of_rlora_have_the_variance_of_lora(transform, shape):
    out, size = shape
    sites = [Site(f"layer.{i}", out, size) for i in range(150)]
    built = RLoRA(rank=5, transform=transform).build(sites, RandomSource(0))
    squares = torch.stack([layer.factors()[1].square() for layer in built]) * 3 * size
    # a layer holds `size` independent numbers; each mean square has mean 1 and variance 0.8
    # (uniform) to 2 (normal)
    means = squares.mean((1, 2))
    assert abs(means.mean() - 1) < 5 * math.sqrt(2 / (150 * size))
    assert abs(squares.mean((0, 1)) - 1).max() < 6 * math.sqrt(2 / 150)  # in every column


@pytest.mark.parametrize("name", ["lora", "nola-dense", "nola-hadamard"])
def test_first_factor_is_uniform_within_one_over_root_in(name):
    values = torch.stack(
        [layer.factors()[1] for layer in many(zoo.make(name))]
    ).double() * math.sqrt(SHAPE[1])
    assert 0.99 < values.abs().max() <= 1
    assert abs(values.square().mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / values.numel())
    assert abs(values.mean()) < 5 * math.sqrt(1 / 3 / values.numel())


@pytest.mark.parametrize("basis", ["dense", "hadamard"])
def test_entries_of_nola_bases_have_variance_one_over_3k(basis):
    k, rank = 40, 5
    squares = []
    for seed in range(12):
        layer = NOLA(rank=rank, num_bases=k, basis=basis).build(
            [Site("a", *SHAPE)], RandomSource(seed)
        )[0]
        for mixer in (layer.right, layer.left):
            squares.append(mixer.basis(torch.eye(k)).double().square().flatten() * 3 * k)
    values = torch.cat(squares)
    assert abs(values.mean() - 1) < 0.02
    if basis == "dense":
        assert values.max() <= 3


@pytest.mark.parametrize(("rank", "width", "exact"), [(4, 64, True), (5, 100, False)])
def test_hadamard_basis_is_orthogonal(rank, width, exact):
    k = 32
    layer = NOLA(rank=rank, num_bases=k, basis="hadamard").build(
        [Site("a", 64, width)], RandomSource(0)
    )[0]
    vectors = layer.right.basis.double()(torch.eye(k, dtype=torch.float64))
    gram = vectors @ vectors.T * (3 * k) / (rank * width)
    if exact:
        torch.testing.assert_close(gram, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-12)
    else:
        assert (gram - torch.eye(k)).abs().max() < 6 / math.sqrt(rank * width)


@pytest.mark.parametrize("basis", ["dense", "hadamard"])
def test_a_single_coefficient_moves_many_entries(basis):
    layer = NOLA(rank=5, num_bases=16, basis=basis).build([Site("a", *SHAPE)], RandomSource(0))[0]
    for row in layer.right.basis(torch.eye(16)):
        assert (row.abs() > 0.1 * row.square().mean().sqrt()).double().mean() > 0.8


@pytest.mark.parametrize("basis", ["dense", "hadamard"])
def test_nola_bases_are_shared_by_layers_of_a_shape(basis):
    sites = [Site("a", 16, 24), Site("b", 16, 24), Site("c", 24, 16)]
    one, two, three = NOLA(rank=4, num_bases=8, basis=basis).build(sites, RandomSource(0))
    assert one.right is two.right
    assert one.left is two.left
    assert one.right is not three.right
    same_size = NOLA(rank=4, num_bases=8, basis=basis).build([Site("a", 24, 24)], RandomSource(0))[
        0
    ]
    a, b = (mixer.basis(torch.eye(8)) for mixer in (same_size.right, same_size.left))
    assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.2


def test_hadamard_basis_refuses_more_vectors_than_it_has():
    with pytest.raises(ValueError, match=r"adapter\.num_bases=33.*1\.\.32"):
        NOLA(rank=4, num_bases=33, basis="hadamard").build([Site("a", 8, 8)], RandomSource(0))
    NOLA(rank=4, num_bases=32, basis="hadamard").build([Site("a", 8, 8)], RandomSource(0))


@pytest.mark.parametrize("law", BASES)
def test_laws_of_randlora_have_mean_zero_and_unit_deviation(law):
    values = draw_basis(RandomSource(0), "A", (200, 500), law, 64).double()
    fourth = {"uniform": 1.8, "normal": 3, "binary": 1, "sparse": 3, "very_sparse": 8}[law]
    n = values.numel()
    assert abs(values.mean()) < 5 / math.sqrt(n)
    assert abs(values.square().mean() - 1) < 5 * math.sqrt(max(fourth - 1, 1e-9) / n) + 1e-6
    assert abs((values**4).mean() - fourth) < 0.05 * fourth
    zeros = {"sparse": 2 / 3, "very_sparse": 1 - 1 / 8}.get(law, 0.0)
    assert abs((values == 0).double().mean() - zeros) < 0.01


@pytest.mark.parametrize("scaling", ["alpha/r", "alpha/(r sqrt(n))"])
@pytest.mark.parametrize(
    ("law", "rank"), [("uniform", 5), ("normal", 5), ("binary", 5), ("sparse", 16)]
)
@pytest.mark.parametrize("shape", [(24, 24), (36, 24), (24, 36)])
def test_randlora_reaches_full_rank(shape, law, rank, scaling):
    method = RandLoRA(rank=rank, basis=law, scaling=scaling)
    layer = method.build([Site("a", *shape)], RandomSource(0))[0].double()
    zoo.perturb(layer, 1.0)
    assert torch.linalg.matrix_rank(layer.delta()) == min(shape)


def test_the_rank_of_a_very_sparse_randlora_is_that_of_its_columns():
    layer = (
        RandLoRA(rank=8, basis="very_sparse")
        .build([Site("a", 60, 36)], RandomSource(0))[0]
        .double()
    )
    zoo.perturb(layer, 1.0)
    empty = (layer.bases.A == 0).all(
        0
    )  # an empty column of A is one of dW, whatever the coefficients
    assert 0 < empty.sum() < 18
    assert torch.equal((layer.delta() == 0).all(0), empty)
    assert torch.linalg.matrix_rank(layer.delta()) == 36 - empty.sum()


def test_randlora_starts_gamma_at_one_over_m_and_shares_one_pair():
    wide, tall = RandLoRA(rank=5).build([Site("a", 24, 36), Site("b", 60, 30)], RandomSource(0))
    assert torch.equal(wide.gamma, torch.full((5, 24), 1 / 24))
    assert torch.equal(tall.gamma, torch.full((6, 30), 1 / 30))
    assert wide.bases is tall.bases
    assert wide.bases.A.shape == (5, 30)
    assert wide.bases.B.shape == (60, 6, 5)


def test_vera_starts_at_d_start_and_shares_one_kaiming_pair():
    one, two = zoo.make("vera-wide").build(
        [Site("a", 400, 300), Site("b", 200, 500)], RandomSource(0)
    )
    assert one.bases is two.bases
    assert torch.equal(one.d, torch.full((40,), 0.3))
    for values, fan_in in [(one.bases.A, 500), (one.bases.B, 40)]:
        bound = math.sqrt(6 / fan_in)
        assert 0.99 * bound < values.abs().max() < bound
        assert abs(values.double().square().mean() / (bound**2 / 3) - 1) < 5 * math.sqrt(
            0.8 / values.numel()
        )


def test_the_hadamard_basis_written_out_is_the_fast_one():
    method = NOLA(rank=3, num_bases=7, basis="hadamard")
    basis = method.build([Site("a", 9, 5)], RandomSource(0))[0].right.basis
    slow = torch.stack(
        [torch.from_numpy(m).flatten() for m in naive_updates.nola_basis(method, basis, (3, 5))]
    )
    torch.testing.assert_close(
        basis.double()(torch.eye(7, dtype=torch.float64)), slow, rtol=1e-12, atol=1e-14
    )
