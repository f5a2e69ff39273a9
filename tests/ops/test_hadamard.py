"""The Walsh-Hadamard transform against SciPy's matrix."""

import math

import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck, gradgradcheck

from rlora.ops import hadamard
from rlora.ops.hadamard import fwht, hadamard_matrix, hadamard_rows, kronecker_sizes, next_power_of_two

POWERS = [2**k for k in range(11)]
# unit roundoff of each dtype; the transform of unit normals has entries of about sqrt(n)
TOLERANCE = {torch.float64: 2e-15, torch.float32: 1e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def reference(n, dtype=torch.float64):
    return torch.from_numpy(scipy.linalg.hadamard(n)).to(dtype)


def normals(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


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
    expected = reference(64) @ x.reshape(2, 64, 128) @ reference(128)  # H_8192 = H_64 (x) H_128
    torch.testing.assert_close(fwht(x), expected.reshape(2, -1), rtol=0, atol=1e-10)
    rows = torch.tensor([0, 1, 127, 128, 5000, 8191])
    expected = torch.stack([torch.kron(reference(64)[row // 128], reference(128)[row % 128]) for row in rows])
    assert torch.equal(hadamard_rows(rows, 2**13), expected.float())


@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (2, 1, 4), (0,), (2, 0)])
@pytest.mark.parametrize("n", [1, 4, 128])
def test_leading_shapes(leading, n):
    x = normals(*leading, n)
    y = fwht(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y, x @ reference(n), rtol=0, atol=1e-11)


def test_strided_input_is_read_right_and_left_alone():
    x = normals(128, 6).T
    before = x.clone()
    torch.testing.assert_close(fwht(x), x @ reference(128), rtol=0, atol=1e-11)
    assert torch.equal(x, before)
    for n in (1, 2, 128):
        y = normals(3, n)
        fwht(y).zero_()
        assert torch.equal(y, normals(3, n))


@pytest.mark.parametrize("n", POWERS)
def test_twice_is_n_times_the_identity(n):
    x = normals(4, n)
    torch.testing.assert_close(fwht(fwht(x)), n * x, rtol=1e-12, atol=1e-12 * n)


@pytest.mark.parametrize("n", [1, 2, 8, 128])
def test_gradients(n):
    x = normals(2, n).requires_grad_()
    assert gradcheck(fwht, (x,), fast_mode=n > 8)
    assert gradgradcheck(fwht, (x,), fast_mode=n > 8)


def test_gradient_is_the_transform_of_the_incoming_one():
    x, g = normals(3, 256).requires_grad_(), normals(3, 256) + 1
    (found,) = torch.autograd.grad(fwht(x), x, g)
    torch.testing.assert_close(found, g @ reference(256), rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [0, 3, 12, 1000])
def test_other_sizes_are_refused(n):
    with pytest.raises(ValueError, match=f"power of two, not {n}"):
        fwht(torch.zeros(2, n))
    with pytest.raises(ValueError, match=f"power of two, not {n}"):
        hadamard_matrix(n)


@pytest.mark.parametrize("n", POWERS)
def test_rows(n):
    rows = torch.arange(n)[torch.randperm(n, generator=torch.Generator().manual_seed(n))][:40]
    found = hadamard_rows(rows, n)
    assert found.dtype == torch.float32
    assert torch.equal(found, reference(n, torch.float32)[rows])


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
    assert all(size <= hadamard.MAX_FACTOR == 64 for size in sizes)
    assert max(sizes) <= 2 * min(sizes)  # balanced
    assert len(sizes) == max(1, -(-bits // 6))


@pytest.mark.parametrize(("d", "n"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (768, 1024), (1024, 1024), (1025, 2048)])
def test_next_power_of_two(d, n):
    assert next_power_of_two(d) == n


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_what_is_cached_without_gradients_serves_training(context):
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


def test_meta_tensors_go_through():
    assert fwht(torch.empty(3, 256, device="meta")).shape == (3, 256)
    assert hadamard_rows(torch.empty(5, dtype=torch.int64, device="meta"), 256).is_meta
