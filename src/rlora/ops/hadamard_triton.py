"""The Walsh-Hadamard transform as one Triton kernel: a row is read once, transformed in registers and written once."""

from typing import Any

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

ROW_BYTES = (
    1 << 16
)  # a row in the dtype of its sums; moving it between threads takes as much shared memory
BLOCK = 2048  # entries a program transforms, in several rows where they are short
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
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, N)[None, :]
    x = tl.load(source + row * stride + column, mask=(row < rows) & (column < size), other=0.0).to(
        SUM
    )
    # a round transforms along the lowest bit of the column number and makes it the highest one, so that all rounds are
    # the same and after BITS of them every bit has had its turn and is back in its place
    for _ in tl.static_range(BITS):
        even, odd = tl.split(tl.reshape(x, (ROWS, N // 2, 2)))
        x = tl.reshape(tl.permute(tl.join(even + odd, even - odd), (0, 2, 1)), (ROWS, N))
    x = x.to(target.dtype.element_ty)
    tl.store(target + row * columns + column, x, mask=(row < rows) & (column < columns))


def max_order(dtype: torch.dtype) -> int:
    """The largest n that `transform` takes in this dtype; 0 for a dtype that it does not know."""
    sums = SUMS.get(dtype)
    return 0 if sums is None else ROW_BYTES * 8 // sums.primitive_bitwidth


def transform(x: Tensor, n: int, columns: int) -> Tensor:
    """Compute the first columns of [x 0] H_n, with sums in float32 (float64 in float64).

    Args:
        x: (rows, d), d <= n; on CUDA, or anywhere in Triton's interpreter.
        n: A power of two, at most `max_order` of x's dtype.
        columns: At most n.

    Returns:
        (rows, columns), of x's dtype and device.
    """
    x = x if x.stride(1) == 1 else x.contiguous()
    rows, d = x.shape
    y = x.new_empty(rows, columns)
    if rows == 0:
        return y
    block = max(1, BLOCK // n)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        launch: Any = _kernel[
            (triton.cdiv(rows, block),)
        ]  # so that types check with Triton and without
        sizes = {"N": n, "BITS": n.bit_length() - 1, "ROWS": block, "SUM": SUMS[x.dtype]}
        launch(x, y, rows, d, columns, x.stride(0), **sizes, num_warps=max(4, n // 1024))
    return y
