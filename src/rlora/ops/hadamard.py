"""The Walsh-Hadamard transform in Sylvester (natural) order: H_1 = [1], H_2n = [[H_n, H_n], [H_n, -H_n]].

On CUDA a Triton kernel (`rlora.ops.hadamard_triton`) transforms, elsewhere small matrix products do.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlora.ops.context import without_autocast

WHOLE = 64  # up to here H_n is one factor
MAX_FACTOR = 32  # else the factors are at most so large, so that the cost grows as n log n
CHUNK = (
    1 << 19
)  # entries a CPU thread transforms at a time, so that what lies between the factors reuses warm memory
KERNEL_DEVICE = "cuda"

_without_kernel: set[torch.dtype] = set()  # dtypes whose kernel failed once on this machine


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least n (n >= 1)."""
    return 1 << (n - 1).bit_length()


def _is_power_of_two(n: int) -> bool:
    return n >= 1 and not n & (n - 1)


def _matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    index = torch.arange(n, device=device)
    parity = index[:, None] & index[None, :]
    for shift in (16, 8, 4, 2, 1):
        parity = parity ^ (parity >> shift)
    return (1 - 2 * (parity & 1)).to(dtype)


_cached_matrix = lru_cache(maxsize=64)(_matrix)


def hadamard_matrix(
    n: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """H_n as an (n, n) tensor of +-1: H[j, k] = (-1)^popcount(j & k).

    Raises:
        ValueError: n is not a power of two.
    """
    if not _is_power_of_two(n):
        raise ValueError(f"a Walsh-Hadamard matrix needs a power of two, not {n}")
    if torch.compiler.is_compiling():  # what a tracer makes is of no use outside its graph
        return _matrix(n, dtype, torch.device(device))
    with torch.inference_mode(False):  # a cached inference tensor could never be used in training
        return _cached_matrix(n, dtype, torch.device(device))


def kronecker_sizes(n: int) -> list[int]:
    """Sizes of the factors of H_n = H_n1 (x) H_n2 (x) ..., balanced and bounded; the smaller ones first."""
    bits = n.bit_length() - 1
    parts = 1 if n <= WHOLE else -(-bits // (MAX_FACTOR.bit_length() - 1))
    return [1 << ((bits + part) // parts) for part in range(parts)]


def fwht(x: Tensor, n: int | None = None) -> Tensor:
    """Transform the last dimension, unnormalized: y = [x 0] H_n, so that transforming twice multiplies by n.

    H_n is the Kronecker product of small Hadamard matrices, so the transform is one small matrix product per factor:
    n (n1 + n2 + ...) multiply-adds a row, which grows as n log n. On CUDA one kernel does n log2 n additions a row in
    at least float32. Differentiable any number of times: H is symmetric, so the gradient is the transform of the
    incoming one, cut to d entries; nothing is kept for it.

    Args:
        x: (..., d), d >= 1; under autocast too it is transformed in its own dtype.
        n: A power of two, at least d, up to which x is padded with zeros; the smallest one where None.

    Returns:
        (..., n), of x's dtype and device.

    Raises:
        ValueError: x is empty along the last dimension, or n is not a power of two or is below d.
    """
    d = x.shape[-1]
    if d < 1:
        raise ValueError(
            "the Walsh-Hadamard transform needs at least one entry along the last dimension, not 0"
        )
    n = next_power_of_two(d) if n is None else n
    if not _is_power_of_two(n) or n < d:
        raise ValueError(
            f"the Walsh-Hadamard transform of {d} entries needs a power of two of at least {d}, not {n}"
        )
    if _differs_from_products(x, n):
        result: Tensor = _Transform.apply(x, n, n)
        return result
    with without_autocast(x):
        return _product(x.reshape(-1, d), n, n).reshape(*x.shape[:-1], n)


def _differs_from_products(x: Tensor, n: int) -> bool:
    """Whether `_run` does more than `_product`, which autograd and compilers understand by themselves."""
    if torch.compiler.is_compiling():
        return False
    return _kernel(x, n) is not None or (
        x.device.type == "cpu" and _rows_at_a_time(n) * x.shape[-1] < x.numel()
    )


class _Transform(torch.autograd.Function):
    """The last dimension padded with zeros to n, transformed and cut to `columns`; its transpose is one as well."""

    @staticmethod
    def forward(x: Tensor, n: int, columns: int) -> Tensor:
        with without_autocast(x):
            return _run(x.reshape(-1, x.shape[-1]), n, columns).reshape(*x.shape[:-1], columns)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        x, ctx.n, ctx.columns = inputs
        ctx.size = x.shape[-1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Transform.apply(gradient, ctx.n, ctx.size), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        result: Tensor = _Transform.apply(tangent, ctx.n, ctx.columns)
        return result

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None, None], x: Tensor, n: int, columns: int
    ) -> tuple[Tensor, int]:
        return _Transform.apply(x.movedim(in_dims[0], 0), n, columns), 0


def _rows_at_a_time(n: int) -> int:
    return max(1, CHUNK * torch.get_num_threads() // n)


def _run(x: Tensor, n: int, columns: int) -> Tensor:
    """Transform (rows, d) to (rows, columns) in the way that is fastest for its device and size."""
    if type(x) not in (Tensor, nn.Parameter):  # a tracer's tensor has no memory to read or write
        return _product(x, n, columns)
    if kernel := _kernel(x, n):
        try:
            return kernel(x, n, columns)
        except torch.OutOfMemoryError:
            raise
        except (
            Exception
        ) as error:  # no C compiler, an old GPU, ...: slower is better than not at all
            _without_kernel.add(x.dtype)
            warnings.warn(
                f"no Hadamard kernel for {x.dtype}, matrix products instead: {error!r}",
                stacklevel=2,
            )
    step = _rows_at_a_time(n)
    if x.device.type != "cpu" or len(x) <= step:
        return _product(x, n, columns)
    y = x.new_empty(len(x), columns)
    for start in range(0, len(x), step):
        y[start : start + step] = _product(x[start : start + step], n, columns)
    return y


def _kernel(x: Tensor, n: int) -> Callable[[Tensor, int, int], Tensor] | None:
    """`_run` by Triton; None off its device, where it is not installed, holds no such row, or has failed."""
    if x.device.type != KERNEL_DEVICE or x.dtype in _without_kernel:
        return None
    module = _triton_module()
    return None if module is None or n > module.max_order(x.dtype) else module.transform


@lru_cache(maxsize=1)
def _triton_module() -> ModuleType | None:
    try:
        from rlora.ops import hadamard_triton
    except ImportError:
        return None
    return hadamard_triton


def _product(x: Tensor, n: int, columns: int) -> Tensor:
    """Transform (rows, d) to (rows, columns) by H_n = H_first (x) H_block, a matrix product for each.

    Only whole blocks are padded to; the rest of the padding, and the cut, fall to H_first's columns and rows.
    """
    rows, d = x.shape
    first = kronecker_sizes(n)[0]
    factor = hadamard_matrix(first, x.dtype, x.device)
    if first == n:
        return x @ factor[:d, :columns]
    block = n // first
    before, after = -(-d // block), -(-columns // block)
    x = F.pad(x, (0, before * block - d)) if d % block else x
    if after < before:
        x = factor[:after, :before] @ x.reshape(rows, before, block)
    x = _product(x.reshape(-1, block), block, block).reshape(rows, min(before, after), block)
    if after >= before:
        x = factor[:after, :before] @ x
    return x.reshape(rows, after * block)[:, :columns]


def hadamard_rows(rows: Tensor, n: int) -> Tensor:
    """The given rows of H_n without building H_n: row j of H_ab is row j // b of H_a (x) row j % b of H_b.

    Args:
        rows: (r,) int64 row numbers below n.
        n: A power of two.

    Returns:
        (r, n) float32 of +-1.
    """
    result = torch.ones(len(rows), 1, dtype=torch.float32, device=rows.device)
    after = n
    for size in kronecker_sizes(n):
        after //= size
        part = hadamard_matrix(size, torch.float32, rows.device)[rows // after % size]
        result = (result[:, :, None] * part[:, None, :]).flatten(1)
    return result
