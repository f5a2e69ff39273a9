"""How much matrix multiplication a step does, and how fast large matrices are multiplied here: what time must cost."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import Action


def flops_of(forward: Callable[[], Tensor]) -> int:
    """Floating-point operations of the matrix products in one step, forward and backward."""
    in_place = {torch.ops.aten.addmm_: _product_flops}  # it knows only those that make a new tensor
    counter = FlopCounterMode(display=False, custom_mapping=in_place)
    with counter:
        forward().backward()
    return counter.get_total_flops()


def _product_flops(
    target: Sequence[int], left: Sequence[int], right: Sequence[int], **_: Any
) -> int:
    return 2 * left[0] * left[1] * right[1]


def large_product(tokens: int, width: int, wider: int, device: torch.device) -> tuple[Action, int]:
    """A product as the backbone's largest ones, and its floating-point operations.

    Args:
        tokens: Rows of x (tokens, width).
        width: Columns of x.
        wider: Rows of the weight (wider, width).
        device: Where it runs.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(rows, width, generator=generator).to(device) for rows in (tokens, wider)
    )
    return lambda: F.linear(x, weight), 2 * tokens * width * wider


def floor(flops: float, limit_flops: float, limit_seconds: float, flops_per_s: float) -> float:
    """The least ratio to the limit that additional products allow: 1 + (F - F_limit) / (rate t_limit)."""
    return 1 + (flops - limit_flops) / (flops_per_s * limit_seconds)
