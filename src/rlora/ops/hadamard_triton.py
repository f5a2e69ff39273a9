"""The Walsh-Hadamard transform as one Triton kernel.

Each row is read once, transformed in registers and written once, so the kernel is bound by memory.
"""

from typing import Any

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

# Largest row in bytes, in the dtype of its sums. Moving the row between threads takes as much
# shared memory, of which a GPU has about this much per block.
ROW_BYTES = 1 << 16
BLOCK = 2048  # entries per program: several rows if they are short, to keep all threads busy
# Half precision is summed in float32 and rounded once at the end.
SUMS = {
    torch.float16: tl.float32,
    torch.bfloat16: tl.float32,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    source,
    target,
    rows,
    size,
    columns,
    stride,
    N: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    SUM: tl.constexpr,
):
    # int64: rows * stride exceeds 32 bits for large activations.
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, N)[None, :]
    # Columns beyond `size` load as 0: the padding costs no memory traffic.
    x = tl.load(source + row * stride + column, mask=(row < rows) & (column < size), other=0.0).to(
        SUM
    )
    # A round is the butterfly along the lowest bit of the column number, and it rotates that bit to
    # the top. All rounds are the same code therefore, and after BITS rounds every bit has been
    # transformed and is in its place again.
    for _ in tl.static_range(BITS):
        even, odd = tl.split(tl.reshape(x, (ROWS, N // 2, 2)))
        x = tl.reshape(tl.permute(tl.join(even + odd, even - odd), (0, 2, 1)), (ROWS, N))
    x = x.to(target.dtype.element_ty)
    tl.store(target + row * columns + column, x, mask=(row < rows) & (column < columns))


def max_order(dtype: torch.dtype) -> int:
    """Return the largest n that `transform` accepts in this dtype, 0 for an unsupported dtype."""
    sums = SUMS.get(dtype)
    return 0 if sums is None else ROW_BYTES * 8 // sums.primitive_bitwidth


def transform(x: Tensor, n: int, columns: int) -> Tensor:
    """Compute the first columns of [x 0] H_n, with sums in float32 (float64 for float64).

    Args:
        x: (rows, d) with d <= n, on CUDA, or on any device in Triton's interpreter.
        n: Power of two, at most `max_order` of x's dtype.
        columns: Number of columns, at most n.

    Returns:
        (rows, columns) in x's dtype, on x's device.
    """
    # The kernel takes a row stride but reads neighboring columns.
    x = x if x.stride(1) == 1 else x.contiguous()
    rows, d = x.shape
    y = x.new_empty(rows, columns)
    if rows == 0:  # an empty grid is an error
        return y
    block = max(1, BLOCK // n)
    with torch.cuda.device_of(x):  # Triton launches on the current device, not on x's
        # Any, so that mypy gives the same answer with Triton installed and without.
        launch: Any = _kernel[(triton.cdiv(rows, block),)]
        sizes = {"N": n, "BITS": n.bit_length() - 1, "ROWS": block, "SUM": SUMS[x.dtype]}
        launch(x, y, rows, d, columns, x.stride(0), **sizes, num_warps=max(4, n // 1024))
    return y
