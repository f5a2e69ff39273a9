"""The fast Walsh-Hadamard transform in Sylvester (natural) order.

    H_1 = [1],   H_2n = [[H_n, H_n], [H_n, -H_n]],   H_ab = H_a (x) H_b (Kronecker product)

On CUDA a Triton kernel computes the transform (`rlora.ops.hadamard_triton`). Everywhere else, and
where the kernel is not available, it is a small matrix product per Kronecker factor.
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

WHOLE = 64  # up to this n one product with H_n is fastest
MAX_FACTOR = 32  # above it, factors of at most this size, so that the cost grows as n log n
# Entries that a CPU thread transforms at a time: 2 MiB in float32, so that the intermediate results
# between two factors stay in its cache.
CHUNK = 1 << 19
KERNEL_DEVICE = "cuda"

_failed_kernel_dtypes: set[torch.dtype] = set()  # dtypes whose kernel has failed in this process


def next_power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least n, for n >= 1."""
    return 1 << (n - 1).bit_length()


def _is_power_of_two(n: int) -> bool:
    return n >= 1 and not n & (n - 1)


def _matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    index = torch.arange(n, device=device)
    parity = index[:, None] & index[None, :]
    for shift in (16, 8, 4, 2, 1):  # folds the popcount's parity into the lowest bit
        parity = parity ^ (parity >> shift)
    return (1 - 2 * (parity & 1)).to(dtype)


_cached_matrix = lru_cache(maxsize=64)(_matrix)


def hadamard_matrix(
    n: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Return H_n as an (n, n) tensor of +-1: H[j, k] = (-1)^popcount(j & k).

    The tensor is cached and shared. Do not change it in place.

    Raises:
        ValueError: n is not a power of two.
    """
    if not _is_power_of_two(n):
        raise ValueError(f"n={n} is invalid: expected a power of two")
    # A compiler traces with tensors that are useless outside its graph, so they must not be cached.
    if torch.compiler.is_compiling():
        return _matrix(n, dtype, torch.device(device))
    # A tensor made in inference mode can never take part in training. The first caller may be an
    # evaluation, so the cached tensor is always a normal one.
    with torch.inference_mode(False):
        return _cached_matrix(n, dtype, torch.device(device))


def kronecker_sizes(n: int) -> list[int]:
    """Return balanced sizes of the factors of H_n = H_n1 (x) H_n2 (x) ..., smallest first."""
    bits = n.bit_length() - 1
    parts = 1 if n <= WHOLE else -(-bits // (MAX_FACTOR.bit_length() - 1))  # ceiling
    return [1 << ((bits + part) // parts) for part in range(parts)]


def fwht(x: Tensor, n: int | None = None) -> Tensor:
    """Compute the unnormalized transform of the last dimension: y = [x 0] H_n.

    Transforming twice multiplies by n. The factors of H_n take n (n1 + n2 + ...) multiply-adds per
    row, which grows as n log n. The CUDA kernel takes n log2 n additions per row, in at least
    float32.

    The function is differentiable any number of times and saves nothing of x's size: H is
    symmetric, so the gradient is the transform of the incoming gradient, cut to d entries.

    Args:
        x: (..., d) with d >= 1. It is transformed in its own dtype, under autocast too.
        n: Power of two, at least d. x is padded with zeros to n entries. Defaults to the smallest
            one.

    Returns:
        (..., n) in x's dtype, on x's device.

    Raises:
        ValueError: The last dimension of x is empty, or n is not a power of two or is below d.
    """
    d = x.shape[-1]
    if d < 1:
        raise ValueError(
            "x is invalid: expected at least one entry along the last dimension for the transform"
        )
    n = next_power_of_two(d) if n is None else n
    if not _is_power_of_two(n) or n < d:
        raise ValueError(
            f"n={n} is invalid: expected a power of two of at least {d}, the last dimension of x"
        )
    if _needs_autograd_function(x, n):
        y: Tensor = _Transform.apply(x, n, n)
        return y
    with without_autocast(x):
        return _product(x.reshape(-1, d), n, n).reshape(*x.shape[:-1], n)


def _needs_autograd_function(x: Tensor, n: int) -> bool:
    """Return whether the transform launches a kernel or writes its result chunk by chunk.

    Autograd cannot differentiate either. A single product goes without the function: autograd,
    functorch and compilers handle it themselves.
    """
    if torch.compiler.is_compiling():
        return False
    return _kernel_for(x, n) is not None or (
        x.device.type == "cpu" and _rows_per_chunk(n) * x.shape[-1] < x.numel()
    )


class _Transform(torch.autograd.Function):
    """y = the first `columns` entries of [x 0] H_n.

    Its transpose pads to `columns` -> n and cuts to d, so the same function is its own gradient,
    and so on for every order. `forward` without `ctx`, plus `setup_context`, `jvp` and `vmap`, is
    what forward-mode differentiation and `torch.func` require.
    """

    @staticmethod
    def forward(x: Tensor, n: int, columns: int) -> Tensor:
        """Map (..., d) to (..., columns)."""
        with without_autocast(x):
            return _run(x.reshape(-1, x.shape[-1]), n, columns).reshape(*x.shape[:-1], columns)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        """Remember the sizes; a linear map needs no tensor for its gradient."""
        x, ctx.n, ctx.columns = inputs
        ctx.size = x.shape[-1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Transform the gradient (..., columns) and cut it to (..., d)."""
        return _Transform.apply(gradient, ctx.n, ctx.size), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        """Transform the tangent like x."""
        y: Tensor = _Transform.apply(tangent, ctx.n, ctx.columns)
        return y

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None, None], x: Tensor, n: int, columns: int
    ) -> tuple[Tensor, int]:
        """Move the mapped dimension to the front: it is one more leading dimension."""
        return _Transform.apply(x.movedim(in_dims[0], 0), n, columns), 0


def _rows_per_chunk(n: int) -> int:
    return max(1, CHUNK * torch.get_num_threads() // n)


def _run(x: Tensor, n: int, columns: int) -> Tensor:
    """Transform (rows, d) to (rows, columns) by the kernel, in chunks or by one product."""
    # Subclasses are a tracer's tensors (fake, functional), without memory to read or write.
    if type(x) not in (Tensor, nn.Parameter):
        return _product(x, n, columns)
    if kernel := _kernel_for(x, n):
        try:
            return kernel(x, n, columns)
        except torch.OutOfMemoryError:
            # Says nothing about the kernel, and the products would need more memory still.
            raise
        except Exception as error:
            # Triton compiles at the first call and may find no C compiler or an old GPU. The
            # products are slower but correct. Remembering the dtype avoids a retry per step.
            _failed_kernel_dtypes.add(x.dtype)
            warnings.warn(
                f"the Hadamard kernel for {x.dtype} failed, so matrix products replace it: "
                f"{error!r}",
                stacklevel=2,
            )
    step = _rows_per_chunk(n)
    # A GPU has no per-thread cache to stay in, and a single chunk needs no copy into y.
    if x.device.type != "cpu" or len(x) <= step:
        return _product(x, n, columns)
    y = x.new_empty(len(x), columns)
    for start in range(0, len(x), step):
        y[start : start + step] = _product(x[start : start + step], n, columns)
    return y


def _kernel_for(x: Tensor, n: int) -> Callable[[Tensor, int, int], Tensor] | None:
    """Return the Triton transform for this input.

    None if x is on another device, Triton is not installed, the kernel has failed for this dtype,
    or a row is too long for it.
    """
    if x.device.type != KERNEL_DEVICE or x.dtype in _failed_kernel_dtypes:
        return None
    module = _triton_module()
    return None if module is None or n > module.max_order(x.dtype) else module.transform


@lru_cache(maxsize=1)  # a failed import is slow and would be repeated at every call
def _triton_module() -> ModuleType | None:
    try:
        from rlora.ops import hadamard_triton
    except ImportError:
        return None
    return hadamard_triton


def _product(x: Tensor, n: int, columns: int) -> Tensor:
    """Transform (rows, d) to (rows, columns) with one matrix product per Kronecker factor.

    With H_n = H_first (x) H_block, a row as a matrix X (first, block) becomes H_first X H_block.
    Only `before` block rows of X hold entries of x, and only `after` block rows of the result are
    returned. So H_first is cut to (after, before), and x is padded to whole blocks alone.
    """
    rows, d = x.shape
    first = kronecker_sizes(n)[0]
    factor = hadamard_matrix(first, x.dtype, x.device)
    if first == n:
        return x @ factor[:d, :columns]
    block = n // first
    before, after = -(-d // block), -(-columns // block)  # ceilings
    x = F.pad(x, (0, before * block - d)) if d % block else x
    # Either order is right. H_first goes first where it shrinks the rows, and last where it expands
    # them, so that H_block runs on min(before, after) blocks.
    if after < before:
        x = factor[:after, :before] @ x.reshape(rows, before, block)
    x = _product(x.reshape(-1, block), block, block).reshape(rows, min(before, after), block)
    if after >= before:
        x = factor[:after, :before] @ x
    return x.reshape(rows, after * block)[:, :columns]


def hadamard_rows(rows: Tensor, n: int) -> Tensor:
    """Return rows of H_n without building H_n.

    Row j of H_ab is (row j // b of H_a) (x) (row j % b of H_b).

    Args:
        rows: (r,) int64 row numbers below n.
        n: Power of two.

    Returns:
        (r, n) float32 of +-1.
    """
    # float32 whatever the default dtype is: these rows are part of an adapter's weights.
    result = torch.ones(len(rows), 1, dtype=torch.float32, device=rows.device)
    remaining = n
    for size in kronecker_sizes(n):
        remaining //= size
        part = hadamard_matrix(size, torch.float32, rows.device)[rows // remaining % size]
        result = (result[:, :, None] * part[:, None, :]).flatten(1)
    return result
