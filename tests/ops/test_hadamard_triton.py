"""Which inputs the kernel takes, tested with a stand-in, and the Triton kernel against SciPy.

Without a GPU the kernel runs in Triton's interpreter, on NumPy (set TRITON_INTERPRET=1). That
covers its arithmetic, masks, strides and launch arguments, but not the compiled code or its speed.
"""

import os
from types import SimpleNamespace

import pytest
import torch
from hadamard_reference import reference
from torch.autograd import gradcheck, gradgradcheck

from rlora.ops import hadamard
from rlora.ops.hadamard import fwht

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
POWERS = [2**k for k in range(13)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture
def kernel():
    """The kernel's module, if this machine can run it."""
    pytest.importorskip("triton", reason="triton is not installed")
    if not (INTERPRETED or torch.cuda.is_available()):
        pytest.skip("the kernel needs CUDA, or Triton's interpreter: set TRITON_INTERPRET=1")
    from rlora.ops import hadamard_triton

    return hadamard_triton


def normals(*shape, dtype=torch.float64, device=DEVICE):
    """Normals with 20 fractional bits, so that their sums in float64 are exact."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (x * 2**20).round().div(2**20).to(device, dtype)


def check(y, x, n):
    """Check sums in float32 (float64) rounded once to the dtype.

    Half precision is correct to its last digit, whatever n is.
    """
    expected = x.cpu().double() @ reference(n)[: x.shape[1], : y.shape[1]]
    assert y.dtype == x.dtype
    if x.dtype == torch.float64:
        assert torch.equal(y.cpu(), expected)
    truncated = INTERPRETED and x.dtype == torch.bfloat16  # the interpreter does not round
    rounding = (1 if truncated else 0.5) * torch.finfo(x.dtype).eps
    tolerance = 1.01 * rounding * expected.abs() + 8 * torch.finfo(torch.float32).eps * n**0.5
    assert ((y.cpu().double() - expected).abs() <= tolerance).all()


@pytest.fixture
def calls(monkeypatch):
    """Replace Triton's kernel by a product on this device and record its calls.

    The stand-in accepts float32 up to n = 256.
    """
    calls = []

    def transform(x, n, columns):
        calls.append((tuple(x.shape), n, columns))
        return x @ reference(n, x.dtype)[: x.shape[1], :columns]

    module = SimpleNamespace(
        transform=transform, max_order=lambda dtype: 256 if dtype == torch.float32 else 0
    )
    monkeypatch.setattr(hadamard, "KERNEL_DEVICE", "cpu")
    monkeypatch.setattr(hadamard, "_triton_module", lambda: module)
    monkeypatch.setattr(hadamard, "_failed_kernel_dtypes", set())
    return calls


def test_the_kernel_transforms_forward_and_backward(calls):
    x = normals(2, 3, 100, dtype=torch.float32, device="cpu").requires_grad_()
    y = fwht(x)
    (gradient,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    gradient.sum().backward()
    assert calls[:2] == [((6, 100), 128, 128), ((6, 128), 128, 100)]
    assert set(calls[2:]) == {((6, 100), 128, 128), ((6, 128), 128, 100)}
    torch.testing.assert_close(y, x @ reference(128, torch.float32)[:100])
    with torch.inference_mode():
        fwht(x)
    torch.vmap(fwht, in_dims=1)(x.detach())
    assert calls[4:] == [((6, 100), 128, 128)] * 2


@pytest.mark.parametrize(("shape", "dtype"), [((3, 100), torch.float64), ((3, 257), torch.float32)])
def test_unsupported_inputs_use_products(calls, shape, dtype):
    x = normals(*shape, dtype=dtype, device="cpu")
    y = fwht(x)
    torch.testing.assert_close(y, x @ reference(y.shape[1], dtype)[: shape[1]], rtol=0, atol=1e-3)
    assert not calls


def test_compilers_trace_products(calls):
    torch._dynamo.reset()
    x = normals(3, 100, dtype=torch.float32, device="cpu")
    torch.compile(fwht, fullgraph=True, backend="aot_eager")(x)
    assert not calls


def test_products_replace_a_missing_triton(monkeypatch, calls):
    monkeypatch.setattr(hadamard, "_triton_module", lambda: None)
    x = normals(3, 100, dtype=torch.float32, device="cpu")
    torch.testing.assert_close(fwht(x), x @ reference(128, torch.float32)[:100], rtol=0, atol=1e-4)


def test_triton_is_not_imported_for_other_devices(monkeypatch):
    monkeypatch.setattr(hadamard, "_triton_module", lambda: pytest.fail("imported Triton"))
    fwht(torch.ones(2, 3))
    monkeypatch.setattr(hadamard, "CHUNK", 1)
    fwht(torch.ones(2, 3))


def test_a_failing_kernel_is_tried_once(monkeypatch, calls):
    def fail(*_):
        calls.append("failed")
        raise RuntimeError("no C compiler")

    module = SimpleNamespace(transform=fail, max_order=lambda dtype: 256)
    monkeypatch.setattr(hadamard, "_triton_module", lambda: module)
    x = normals(3, 100, dtype=torch.float32, device="cpu")
    with pytest.warns(
        UserWarning, match=r"Hadamard kernel for torch.float32 failed.*no C compiler"
    ):
        y = fwht(x)
    assert torch.equal(fwht(x), y)
    torch.testing.assert_close(y, x @ reference(128, torch.float32)[:100], rtol=0, atol=1e-4)
    assert calls == ["failed"]
    with pytest.warns(UserWarning, match=r"torch.float64"):
        fwht(x.double())


def test_running_out_of_memory_does_not_disable_the_kernel(monkeypatch, calls):
    def fail(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(
        hadamard, "_triton_module", lambda: SimpleNamespace(transform=fail, max_order=lambda _: 256)
    )
    with pytest.raises(torch.OutOfMemoryError):
        fwht(torch.ones(3, 100))
    assert not hadamard._failed_kernel_dtypes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", POWERS)
def test_transform(kernel, n, dtype):
    x = normals(3, n, dtype=dtype)
    y = kernel.transform(x, n, n)
    assert y.shape == (3, n)
    check(y, x, n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("d", "n", "columns"), [(1, 4, 4), (3, 4, 1), (100, 128, 77), (2, 128, 128), (1000, 1024, 5)]
)
def test_padding_and_cutting(kernel, d, n, columns, dtype):
    x = normals(3, d, dtype=dtype)
    y = kernel.transform(x, n, columns)
    assert y.shape == (3, columns)
    check(y, x, n)


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 33])
def test_row_counts_that_do_not_fill_a_program(kernel, rows):
    assert kernel.BLOCK // 128 == 16
    x = normals(rows, 100)
    y = kernel.transform(x, 128, 128)
    assert y.shape == (rows, 128)
    check(y, x, 128)


def test_strides(kernel):
    for x in (
        normals(9, 200)[:, 3:93],
        normals(90, 9).T,
        normals(9, 180)[:, ::2],
        normals(1, 90).expand(9, 90),
    ):
        check(kernel.transform(x, 128, 128), x, 128)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_longest_row(kernel, dtype):
    n = kernel.max_order(dtype)
    assert n == (8192 if dtype == torch.float64 else 16384)
    x = normals(2, n - 1, dtype=dtype)
    y = kernel.transform(x, n, n)
    expected = hadamard._product(x.cpu().double(), n, n)  # tested against SciPy above
    tolerance = (
        torch.finfo(dtype).eps * expected.abs() + 8 * max(torch.finfo(dtype).eps, 2e-16) * n**0.5
    )
    assert ((y.cpu().double() - expected).abs() <= tolerance).all()


def test_unsupported_dtypes(kernel):
    assert kernel.max_order(torch.int64) == kernel.max_order(torch.complex64) == 0


@pytest.fixture
def kernel_calls(kernel, monkeypatch):
    """Make `fwht` use the kernel on this device and record its calls."""
    calls = []
    transform = kernel.transform
    monkeypatch.setattr(hadamard, "KERNEL_DEVICE", DEVICE)
    monkeypatch.setattr(hadamard, "_failed_kernel_dtypes", set())
    monkeypatch.setattr(
        kernel, "transform", lambda *args: calls.append(args[1:]) or transform(*args)
    )
    return calls


@pytest.mark.parametrize(("d", "n"), [(1, 1), (8, 8), (5, 8), (5, 32)])
def test_gradients(kernel_calls, d, n):
    x = normals(3, d).requires_grad_()
    assert gradcheck(lambda x: fwht(x, n), (x,), check_forward_ad=True)
    assert gradgradcheck(lambda x: fwht(x, n).pow(3), (x,))
    assert set(kernel_calls) == {(n, n), (n, d)}
    assert not hadamard._failed_kernel_dtypes


def test_nothing_is_saved_for_backward(kernel_calls):
    saved = []
    x = normals(4, 100).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    ):
        fwht(x)
    assert kernel_calls
    assert not saved


def test_functional_transforms(kernel_calls):
    matrix = reference(128)[:100].to(DEVICE)
    x = normals(4, 100)
    torch.testing.assert_close(torch.vmap(fwht, in_dims=1)(x.T), x @ matrix, rtol=0, atol=1e-11)
    gradients = torch.vmap(torch.func.grad(lambda row: fwht(row).pow(3).sum()))(x)
    torch.testing.assert_close(
        gradients, 3 * (x @ matrix).pow(2) @ matrix.T, rtol=1e-10, atol=1e-10
    )
    assert set(kernel_calls) == {(128, 128), (128, 100)}
    with torch.inference_mode():
        assert fwht(x[None]).shape == (1, 4, 128)
    assert not hadamard._failed_kernel_dtypes


def test_longer_rows_and_compilers_use_products(kernel_calls):
    assert fwht(normals(1, 16385)).shape == (1, 32768)
    torch._dynamo.reset()
    torch.compile(fwht, fullgraph=True, backend="aot_eager")(normals(3, 100))
    assert not kernel_calls
