"""The Walsh-Hadamard transform in Sylvester (natural) order: H_1 = [1], H_2n = [[H_n, H_n], [H_n, -H_n]]."""

from functools import lru_cache

import torch
from torch import Tensor

MAX_FACTOR = 64  # factors H_n is split into; bounded, so that the cost grows as n log n


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least n (n >= 1)."""
    return 1 << (n - 1).bit_length()


@lru_cache(maxsize=64)
def _cached_matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    index = torch.arange(n, device=device)
    parity = index[:, None] & index[None, :]
    for shift in (16, 8, 4, 2, 1):
        parity = parity ^ (parity >> shift)
    return (1 - 2 * (parity & 1)).to(dtype)


def hadamard_matrix(n: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """H_n as an (n, n) tensor of +-1: H[j, k] = (-1)^popcount(j & k).

    Raises:
        ValueError: n is not a power of two.
    """
    if n < 1 or n & (n - 1):
        raise ValueError(f"a Walsh-Hadamard matrix needs a power of two, not {n}")
    with torch.inference_mode(False):  # a cached inference tensor could never be used in training
        return _cached_matrix(n, dtype, torch.device(device))


def kronecker_sizes(n: int) -> list[int]:
    """Sizes of the factors of H_n = H_n1 (x) H_n2 (x) ..., balanced and none above MAX_FACTOR."""
    bits = n.bit_length() - 1
    parts = max(1, -(-bits // (MAX_FACTOR.bit_length() - 1)))
    return [1 << (bits // parts + (1 if i < bits % parts else 0)) for i in range(parts)]


def fwht(x: Tensor) -> Tensor:
    """Transform the last dimension, unnormalised: y = x H_n, so that transforming twice multiplies by n.

    H_n is the Kronecker product of small Hadamard matrices, so the transform is one small matrix product per factor:
    n (n1 + n2 + ...) multiply-adds a row, which grows as n log n. Differentiable: H is symmetric, so is the gradient.

    Args:
        x: (..., n), n a power of two (pad with zeros first where it is not).

    Returns:
        (..., n), of x's dtype and device.

    Raises:
        ValueError: n is not a power of two.
    """
    n = x.shape[-1]
    if n < 1 or n & (n - 1):
        raise ValueError(f"the Walsh-Hadamard transform needs a power of two, not {n}: pad with zeros")
    shape = x.shape
    after = n
    for size in kronecker_sizes(n):
        after //= size
        factor = hadamard_matrix(size, x.dtype, x.device)
        x = factor @ x.reshape(-1, size, after) if after > 1 else x.reshape(-1, size) @ factor
    return x.reshape(shape)


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
