"""The fused products against the explicit formula, and the tensors they save for backward."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from rlora.ops.fused_linear import full_rank_linear, low_rank_linear
from rlora.ops.random_sum import RandomSum, RandomSumLinear, stacked
from rlora.ops.thin_products import by_token, combine, contract, project

SHAPES = [(5, 7), (7, 5), (6, 6)]  # out, in
DIRECTIONS = [
    {"merge_forward": forward, "merge_backward": backward}
    for forward in (True, False)
    for backward in (True, False)
]
MERGED = DIRECTIONS[0]


def normals(*shape, seed=0, dtype=torch.float64, grad=True):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad)
    )


def layer(out, size, dtype=torch.float64):
    return normals(out, size, seed=1, dtype=dtype, grad=False), normals(
        out, seed=2, dtype=dtype, grad=False
    )


def saved_storages(function):
    """Return the bytes of each distinct storage saved for backward by address, and the result."""
    storages = {}

    def pack(tensor):
        # Holding the tensor keeps its address from being reused.
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    sizes = {address: tensor.untyped_storage().nbytes() for address, tensor in storages.items()}
    return sizes, result


@pytest.mark.parametrize("tokens", [1, 3, 256, 260])  # 256 splits into blocks
@pytest.mark.parametrize("rank", [1, 8, 40])
def test_blocks_of_tokens_do_not_change_the_product(tokens, rank):
    a, x, g = normals(rank, 7), normals(tokens, 7, seed=1), normals(tokens, 5, seed=2)
    h = project(a, x)
    assert len(h) == (16 if tokens == 256 and rank <= 32 else 1)
    torch.testing.assert_close(by_token(h), x @ a.T)
    torch.testing.assert_close(contract(h, g), (x @ a.T).T @ g)


@pytest.mark.parametrize("columns", [5, 256, 272, 260])  # 256 and 272 split into blocks
@pytest.mark.parametrize("rows", [1, 4, 40])
def test_blocks_of_columns_do_not_change_the_product(rows, columns):
    c, bank = normals(rows, 9), normals(9, columns, seed=1, grad=False)
    torch.testing.assert_close(combine(c, bank), c @ bank)
    g = normals(rows, columns, seed=2, grad=False)
    torch.testing.assert_close(torch.autograd.grad(combine(c, bank), c, g), (g @ bank.T,))


@pytest.mark.parametrize("merge", DIRECTIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(4,), (2, 3), (16, 16), (0,)])
@pytest.mark.parametrize(("out", "size"), SHAPES)
def test_low_rank(out, size, lead, bias, merge):
    w, c = layer(out, size)
    c = c if bias else None
    x, b, a = normals(*lead, size), normals(out, 3, seed=3), normals(3, size, seed=4)
    y = low_rank_linear(x, w, c, b, a, 0.7, projected=None, **merge)
    expected = F.linear(x, w + 0.7 * b @ a, c)
    torch.testing.assert_close(y, expected)
    g = normals(*y.shape, seed=5, grad=False)
    gradients = torch.autograd.grad(y, (x, b, a), g)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (x, b, a), g))
    with torch.no_grad():
        torch.testing.assert_close(
            low_rank_linear(x, w, c, b, a, 0.7, projected=None, **merge), expected
        )


@pytest.mark.parametrize("merge", DIRECTIONS)
@pytest.mark.parametrize("trained", ["x", "b", "a", "xb", "ba", "xa"])
def test_low_rank_with_some_inputs_frozen(trained, merge):
    w, c = layer(5, 7)
    x, b, a = (
        normals(*shape, seed=seed, grad=name in trained)
        for seed, (name, shape) in enumerate({"x": (4, 7), "b": (5, 3), "a": (3, 7)}.items())
    )
    inputs = [tensor for tensor in (x, b, a) if tensor.requires_grad]
    gradients = torch.autograd.grad(
        low_rank_linear(x, w, c, b, a, 1.3, projected=None, **merge).sum(), inputs
    )
    expected = torch.autograd.grad(F.linear(x, w + 1.3 * b @ a, c).sum(), inputs)
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize(("out", "size"), SHAPES)
def test_full_rank(out, size, recompute):
    w, c = layer(out, size)
    x, delta = normals(2, 3, size), normals(out, size, seed=3)
    y = full_rank_linear(x, w, c, delta, recompute_delta=delta.detach if recompute else None)
    expected = F.linear(x, w + delta, c)
    torch.testing.assert_close(y, expected)
    g = normals(*y.shape, seed=5, grad=False)
    torch.testing.assert_close(
        torch.autograd.grad(y, (x, delta), g), torch.autograd.grad(expected, (x, delta), g)
    )


def random_sum(out, size, rank=2):
    large, small = max(out, size), min(out, size)
    products = -(-small // rank)
    lambda_, gamma = normals(products, rank, seed=3), normals(products, small, seed=4)
    a, b = (
        normals(rank, small, seed=5, grad=False),
        normals(large, products * rank, seed=6, grad=False),
    )
    delta = b @ stacked(lambda_, gamma, a, 0.7)
    return lambda_, gamma, a, b, delta if out >= size else delta.T


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("tokens", [1, 6, 7, 8, 20])  # below, at and above M
@pytest.mark.parametrize(("out", "size"), SHAPES)
def test_random_sum(out, size, tokens, keep):
    w, c = layer(out, size)
    x = normals(tokens, size)
    lambda_, gamma, a, b, delta = random_sum(out, size)
    y = RandomSumLinear.apply(x, w, c, lambda_, gamma, a, b, 0.7, keep)
    expected = F.linear(x, w + delta, c)
    torch.testing.assert_close(y, expected)
    g = normals(*y.shape, seed=7, grad=False)
    inputs = (x, lambda_, gamma)
    torch.testing.assert_close(
        torch.autograd.grad(y, inputs, g), torch.autograd.grad(expected, inputs, g)
    )


def test_random_sum_alone():
    lambda_, gamma, a, b, _ = random_sum(7, 5)
    assert gradcheck(lambda *values: RandomSum.apply(*values, a, b, 0.7), (lambda_, gamma))


@pytest.mark.parametrize(
    ("tokens", "shape"), [(64, (40, 24)), (64, (24, 40)), (16, (40, 24)), (16, (24, 40))]
)
def test_saved_numbers(tokens, shape):
    """The functions save one activation of the smaller side, or A x alone (float64 numbers)."""
    out, size = shape
    w, c = layer(out, size)
    x = normals(tokens, size)
    b, a = normals(out, 2, seed=3), normals(2, size, seed=4)
    inputs = {tensor.untyped_storage().data_ptr() for tensor in (x, w, b, a)}

    def numbers(function):
        return (
            sum(
                size
                for address, size in saved_storages(function)[0].items()
                if address not in inputs
            )
            // 8
        )

    for merge in DIRECTIONS:
        assert (
            numbers(lambda m=merge: low_rank_linear(x, w, c, b, a, 1.0, projected=None, **m))
            == 2 * tokens
        )
        frozen = a.detach()
        saved = numbers(
            lambda m=merge, f=frozen: low_rank_linear(x, w, c, b, f, 1.0, projected=None, **m)
        )
        assert saved == 2 * tokens + (out * size if merge == MERGED else 0)
    delta = normals(out, size, seed=5)
    assert numbers(lambda: full_rank_linear(x, w, c, delta)) == out * size
    assert numbers(lambda: full_rank_linear(x, w, c, delta, recompute_delta=delta.detach)) == 0
    lambda_, gamma, bases_a, bases_b, _ = random_sum(out, size)
    inputs |= {tensor.untyped_storage().data_ptr() for tensor in (lambda_, gamma, bases_a, bases_b)}
    for keep in (True, False):
        expected = (24 * tokens if size > out else 0) + (out * size if keep else 0)
        assert (
            numbers(
                lambda k=keep: RandomSumLinear.apply(
                    x, w, c, lambda_, gamma, bases_a, bases_b, 1.0, k
                )
            )
            == expected
        )


def test_a_frozen_a_does_not_save_x():
    w, c = layer(5, 7)
    x, b, a = normals(4, 7), normals(5, 3, seed=3), normals(3, 7, seed=4, grad=False)
    addresses, _ = saved_storages(
        lambda: low_rank_linear(x, w, c, b, a, 1.0, projected=None, **MERGED)
    )
    assert x.untyped_storage().data_ptr() not in addresses


@pytest.mark.parametrize("merge", DIRECTIONS)
def test_autocast_computes_in_bfloat16_with_float32_gradients(merge):
    w, c = layer(5, 7, torch.float32)
    x, b, a = (
        t.detach().float().requires_grad_() for t in (normals(4, 7), normals(5, 3), normals(3, 7))
    )
    lambda_, gamma, bases_a, bases_b, delta = (t.detach().float() for t in random_sum(5, 7))
    lambda_.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        low = low_rank_linear(x, w, c, b, a, 0.5, projected=None, **merge)
        full = full_rank_linear(x, w, c, a.T[:5] @ a)
        random = RandomSumLinear.apply(x, w, c, lambda_, gamma, bases_a, bases_b, 0.7, True)
    assert low.dtype == full.dtype == random.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), F.linear(x, w + 0.5 * b @ a, c), rtol=0.05, atol=0.15)
    torch.testing.assert_close(random.float(), F.linear(x, w + delta, c), rtol=0.05, atol=0.3)
    for gradient in torch.autograd.grad(low.sum() + full.sum() + random.sum(), (x, b, a, lambda_)):
        assert gradient.dtype == torch.float32


def test_changing_a_factor_before_backward_raises():
    w, c = layer(5, 7)
    x, b, a = normals(4, 7), normals(5, 3, seed=3), normals(3, 7, seed=4)
    y = low_rank_linear(x, w, c, b, a, 1.0, projected=None, **MERGED)
    with torch.no_grad():
        b.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
