"""Products in which one side has few rows, such as A x at rank 8, split into blocks on a CPU.

BLAS is slow when one side has few rows. Sixteen products with r <= 32 take about two thirds of the
time of a single one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

THIN = 32  # a product with at most this many rows is split into blocks
BLOCKS = 16  # number of blocks


def project(a: Tensor, x: Tensor) -> Tensor:
    """Compute A x for a thin A, in blocks of tokens.

    Args:
        a: A (r, in).
        x: Rows (T, in).

    Returns:
        (blocks, r, T / blocks); blocks is 1 where splitting does not pay.
    """
    blocks = _token_blocks(x, len(a))
    if len(blocks) == 1:
        return F.linear(x, a).t()[None]
    # `expand` repeats A without a copy; bmm reads it once per block, from cache.
    return torch.bmm(a.expand(len(blocks), *a.shape), blocks.mT)


def contract(h: Tensor, g: Tensor) -> Tensor:
    """Compute sum_t h_t g_t^T over the tokens t, the gradient of a factor.

    Args:
        h: (blocks, r, T / blocks) as `project` returns it.
        g: (T, d).

    Returns:
        (r, d), in g's dtype for one block, else in at least float32.
    """
    if len(h) == 1:
        return (g.t() @ h[0].t()).t()
    products = torch.bmm(h, g.reshape(len(h), -1, g.shape[-1]))
    # Under autocast each block's sum is rounded to half precision. Adding the blocks in float32
    # keeps the total as accurate as one product, which accumulates in float32 internally.
    return products.sum(0, dtype=torch.promote_types(products.dtype, torch.float32))


def combine(c: Tensor, bank: Tensor) -> Tensor:
    """Compute C V for a few combinations of the rows of a large bank.

    The time is that of reading V. Blocks of columns read it about twice as fast as one product.

    Args:
        c: C (L, k), with a small L.
        bank: V (k, n).

    Returns:
        (L, n).
    """
    if not _blocks_pay(c, len(c), bank.shape[1]):
        return c @ bank
    columns = bank.unflatten(1, (BLOCKS, -1)).transpose(0, 1)  # (blocks, k, n / blocks), a view
    return torch.bmm(c.expand(BLOCKS, *c.shape), columns).transpose(0, 1).flatten(1)


def by_token(h: Tensor) -> Tensor:
    """Reshape (blocks, r, T / blocks) to (T, r)."""
    return h.transpose(1, 2).reshape(-1, h.shape[1])


def _token_blocks(x: Tensor, rank: int) -> Tensor:
    """Return rows (T, d) as (blocks, T / blocks, d)."""
    if not len(x):  # reshape cannot infer -1 for a tensor without elements
        return x[None]
    blocks = BLOCKS if _blocks_pay(x, rank, len(x)) else 1
    return x.reshape(blocks, -1, x.shape[-1])


def _blocks_pay(x: Tensor, thin: int, long: int) -> bool:
    """Return whether a product of `thin` rows against `long` ones runs faster in blocks.

    cuBLAS splits thin products itself. A block below 16 rows would be too small to gain, and only
    a multiple of `BLOCKS` splits into equal blocks without padding.
    """
    return x.device.type == "cpu" and thin <= THIN and long >= 16 * BLOCKS and long % BLOCKS == 0
