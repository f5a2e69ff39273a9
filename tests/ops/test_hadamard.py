"""The Walsh-Hadamard transform against SciPy's matrix."""

import math

import pytest
import torch
from hadamard_reference import reference, transformed
from torch.autograd import gradcheck, gradgradcheck

from rlora.ops import hadamard
from rlora.ops.hadamard import (
    fwht,
    hadamard_matrix,
    hadamard_rows,
    kronecker_sizes,
    next_power_of_two,
)

POWERS = [2**k for k in range(11)]
# About the unit roundoff of each dtype. The transform of unit normals has entries of about sqrt(n).
TOLERANCE = {torch.float64: 2e-15, torch.float32: 1e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(params=["products", "chunks"])
def path(request, monkeypatch):
    """Run a test with differentiable matrix products and with the autograd function of chunks."""
    if request.param == "chunks":
        monkeypatch.setattr(hadamard, "CHUNK", 1)
    return request.param


def normals(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(
        dtype
    )


@pytest.mark.parametrize("n", POWERS)
def test_matrix(n):
    assert torch.equal(hadamard_matrix(n), reference(n, torch.float32))


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("n", POWERS)
def test_transform(n, dtype):
    x = normals(3, n, dtype=dtype)
    y = fwht(x)
    assert y.dtype == dtype
    expected = x.double() @ reference(n)
    assert (y.double() - expected).abs().max() <= 8 * TOLERANCE[dtype] * math.sqrt(n)


def test_three_factors():
    assert len(kronecker_sizes(2**13)) == 3
    x = normals(2, 2**13)
    torch.testing.assert_close(fwht(x), transformed(x, 2**13), rtol=0, atol=1e-10)
    rows = torch.tensor([0, 1, 127, 128, 5000, 8191])
    expected = torch.stack(
        [torch.kron(reference(64)[row // 128], reference(128)[row % 128]) for row in rows]
    )
    assert torch.equal(hadamard_rows(rows, 2**13), expected.float())


PADDED = [
    (1, 4),
    (3, 4),
    (5, 64),
    (63, 64),
    (33, 128),
    (96, 128),
    (100, 128),
    (768, 1024),
    (1000, 1024),
    (1, 1024),
]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("d", "n"), PADDED)
def test_padding(d, n, dtype, path):
    x = normals(5, d, dtype=dtype)
    y = fwht(x, n)
    assert y.shape == (5, n)
    assert y.dtype == dtype
    expected = x.double() @ reference(n)[:d]
    assert (y.double() - expected).abs().max() <= 8 * TOLERANCE[dtype] * math.sqrt(n)
    if n == next_power_of_two(d):
        assert torch.equal(fwht(x), y)


@pytest.mark.parametrize("d", [1, 5000, 5120, 8000])
def test_padding_of_three_factors(d, path):
    x = normals(3, d)
    torch.testing.assert_close(fwht(x, 8192), transformed(x, 8192), rtol=0, atol=1e-10)
    x.requires_grad_()
    g = normals(3, 8192)
    gradient = torch.autograd.grad(fwht(x, 8192), x, g)[0]
    torch.testing.assert_close(gradient, transformed(g, 8192)[:, :d], rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [128, 1024])
def test_the_reference_for_large_orders(n):
    x = normals(3, n - 5)
    torch.testing.assert_close(transformed(x, n), x @ reference(n)[: n - 5], rtol=0, atol=1e-11)


@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (2, 1, 4), (0,), (2, 0)])
@pytest.mark.parametrize(("d", "n"), [(1, 1), (4, 4), (128, 128), (100, 128)])
def test_leading_shapes(leading, d, n, path):
    x = normals(*leading, d).requires_grad_()
    y = fwht(x)
    assert y.shape == (*leading, n)
    torch.testing.assert_close(y, x @ reference(n)[:d], rtol=0, atol=1e-11)
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("d", [128, 100])
def test_strided_inputs_are_read_correctly_and_not_changed(d, path):
    for x in (
        normals(d, 6).T,
        normals(6, 2 * d)[:, ::2],
        normals(1, d).expand(6, d),
        normals(2, d, 3).mT,
    ):
        before = x.clone()
        torch.testing.assert_close(fwht(x), x @ reference(128)[:d], rtol=0, atol=1e-11)
        assert torch.equal(x, before)


def test_the_result_does_not_share_memory_with_the_input(path):
    for n in (1, 2, 128):
        y = normals(3, n)
        fwht(y).zero_()
        assert torch.equal(y, normals(3, n))


def test_large_inputs_are_transformed_in_chunks(monkeypatch):
    rows, product = [], hadamard._product
    monkeypatch.setattr(hadamard, "CHUNK", 4 * 128)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(
        hadamard,
        "_product",
        lambda x, n, c: rows.append(len(x)) or product(x, n, c) if n == 128 else x,
    )
    fwht(normals(8, 100))
    assert rows == [8]
    monkeypatch.setattr(
        hadamard,
        "_product",
        lambda x, n, c: rows.append(len(x)) or x @ reference(n)[: x.shape[1], :c],
    )
    rows.clear()
    x = normals(3, 7, 100)
    torch.testing.assert_close(fwht(x), x @ reference(128)[:100], rtol=0, atol=1e-11)
    assert rows == [8, 8, 5]


@pytest.mark.parametrize("n", POWERS)
def test_twice_is_n_times_the_identity(n):
    x = normals(4, n)
    torch.testing.assert_close(fwht(fwht(x)), n * x, rtol=1e-12, atol=1e-12 * n)


@pytest.mark.parametrize(
    ("d", "n"), [(1, 1), (2, 2), (8, 8), (5, 8), (5, 32), (128, 128), (90, 128), (9, 128)]
)
def test_gradients(d, n, path):
    x = normals(3, d).requires_grad_()
    fast = n > 8
    assert gradcheck(
        lambda x: fwht(x, n),
        (x,),
        fast_mode=fast,
        check_forward_ad=True,
        check_batched_grad=not fast,
    )
    assert gradgradcheck(lambda x: fwht(x, n), (x,), fast_mode=fast)
    assert gradgradcheck(lambda x: fwht(x, n).pow(3), (x,), fast_mode=fast)


@pytest.mark.parametrize("d", [256, 200, 130])
def test_gradient_is_the_transform_of_the_incoming_one(d, path):
    x, g = normals(3, d).requires_grad_(), normals(3, 256) + 1
    (gradient,) = torch.autograd.grad(fwht(x), x, g)
    torch.testing.assert_close(gradient, g @ reference(256)[:, :d], rtol=0, atol=1e-10)


@pytest.mark.parametrize("d", [1024, 700, 20])
def test_no_tensor_of_the_size_of_x_is_saved_for_backward(d, path):
    saved = []
    x = normals(50, d).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    ):
        y = fwht(x)
    factors = {hadamard_matrix(size, x.dtype).untyped_storage().data_ptr() for size in (32, 64)}
    assert {tensor.untyped_storage().data_ptr() for tensor in saved} <= factors
    assert path == "products" or not saved
    y.sum().backward()
    torch.testing.assert_close(
        x.grad, reference(y.shape[1])[:d].sum(1).expand(50, -1), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("d", [16, 100])
def test_functional_transforms(d, path):
    matrix = reference(next_power_of_two(d))[:d]
    x = normals(3, d, 2)
    expected = torch.einsum("adb,dn->abn", x, matrix)
    nested = torch.vmap(torch.vmap(fwht, in_dims=1), in_dims=0)
    torch.testing.assert_close(nested(x), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        torch.vmap(fwht, in_dims=2)(x.mT.mT), expected.permute(1, 0, 2), rtol=0, atol=1e-11
    )

    v = normals(4, d)
    gradients = torch.vmap(torch.func.grad(lambda row: fwht(row).pow(3).sum()))(v)
    torch.testing.assert_close(
        gradients, 3 * (v @ matrix).pow(2) @ matrix.T, rtol=1e-10, atol=1e-10
    )
    hessian = torch.func.hessian(lambda row: fwht(row).pow(3).sum())(v[0])
    torch.testing.assert_close(
        hessian, matrix * (6 * v[0] @ matrix) @ matrix.T, rtol=1e-10, atol=1e-9
    )
    torch.testing.assert_close(
        torch.func.jvp(fwht, (v,), (v + 1,))[1], (v + 1) @ matrix, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("d", [64, 768])
def test_compiles_to_one_graph(d, path):
    torch._dynamo.reset()
    x, y = (normals(3, d).requires_grad_() for _ in range(2))
    result = torch.compile(fwht, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(result, fwht(y), rtol=0, atol=1e-11)
    result.pow(2).sum().backward()
    fwht(y).pow(2).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=1e-10)
    # No tensor of the trace is in the cache.
    assert type(hadamard_matrix(next_power_of_two(d))) is torch.Tensor


def test_autocast_does_not_change_the_dtype(path):
    x = normals(3, 768, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fwht(x), fwht(x.clone()))
        assert fwht(x).dtype == torch.float32
    torch.testing.assert_close(
        fwht(x).double(), x.double() @ reference(1024)[:768], rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(("d", "n"), [(2, 0), (2, -4), (2, 3), (1000, 1000), (1000, 512), (3, 2)])
def test_invalid_orders_raise(d, n):
    with pytest.raises(
        ValueError, match=f"^n={n} is invalid: expected a power of two of at least {d}, "
    ):
        fwht(torch.zeros(2, d), n)


def test_an_empty_dimension_raises():
    with pytest.raises(ValueError, match="at least one entry"):
        fwht(torch.zeros(2, 0))
    with pytest.raises(ValueError, match="at least one entry"):
        fwht(torch.zeros(2, 0), 4)


@pytest.mark.parametrize("n", [0, 3, 12, 1000])
def test_invalid_matrix_orders_raise(n):
    with pytest.raises(ValueError, match=f"^n={n} is invalid: expected a power of two$"):
        hadamard_matrix(n)


@pytest.mark.parametrize("n", POWERS)
def test_rows(n):
    rows = torch.arange(n)[torch.randperm(n, generator=torch.Generator().manual_seed(n))][:40]
    selected = hadamard_rows(rows, n)
    assert selected.dtype == torch.float32
    assert torch.equal(selected, reference(n, torch.float32)[rows])


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_rows_are_float32_whatever_the_default(default):
    torch.set_default_dtype(default)
    try:
        assert hadamard_rows(torch.tensor([0, 3]), 8).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("bits", range(21))
def test_kronecker_factors(bits):
    sizes = kronecker_sizes(2**bits)
    assert math.prod(sizes) == 2**bits
    assert all(size <= hadamard.MAX_FACTOR == 32 for size in sizes) or sizes == [64]
    assert max(sizes) <= 2 * min(sizes)  # balanced
    assert len(sizes) == (1 if bits <= 6 else -(-bits // 5))
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("d", "n"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (768, 1024), (1024, 1024), (1025, 2048)]
)
def test_next_power_of_two(d, n):
    assert next_power_of_two(d) == n


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_matrices_cached_without_gradients_work_in_training(context):
    hadamard._cached_matrix.cache_clear()
    with context():
        fwht(torch.ones(2, 128))
        hadamard_rows(torch.tensor([1]), 128)
    x = torch.ones(2, 128, requires_grad=True)
    fwht(x).sum().backward()
    assert torch.equal(x.grad, reference(128, torch.float32).sum(1).expand(2, -1))
    weight = torch.ones(1, 128, requires_grad=True)
    (hadamard_rows(torch.tensor([1]), 128) * weight).sum().backward()
    assert torch.equal(weight.grad[0], reference(128, torch.float32)[1])


def test_inference_mode(path):
    x = normals(3, 100)
    with torch.inference_mode():
        y = fwht(x)
    assert y.is_inference()
    torch.testing.assert_close(y.clone(), x @ reference(128)[:100], rtol=0, atol=1e-11)


def test_meta_tensors(path):
    assert fwht(torch.empty(3, 256, device="meta")).shape == (3, 256)
    x = torch.empty(3, 2, 200, device="meta", requires_grad=True)
    y = fwht(x)
    assert y.is_meta
    assert y.shape == (3, 2, 256)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert hadamard_rows(torch.empty(5, dtype=torch.int64, device="meta"), 256).is_meta
