"""FLOPs of the matrix products in a step, and the time that they take at least."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import Action


def flops_of(forward: Callable[[], Tensor]) -> int:
    """Return the FLOPs of the matrix products in one step, forward and backward."""
    # By default the counter only knows the out-of-place addmm.
    in_place = {torch.ops.aten.addmm_: _product_flops}
    counter = FlopCounterMode(display=False, custom_mapping=in_place)
    with counter:
        forward().backward()
    return counter.get_total_flops()


def _product_flops(
    target: Sequence[int], left: Sequence[int], right: Sequence[int], **_: Any
) -> int:
    return 2 * left[0] * left[1] * right[1]


def large_product(tokens: int, width: int, wider: int, device: torch.device) -> tuple[Action, int]:
    """Return a product as large as the largest of the backbone, and its FLOPs.

    Args:
        tokens: Rows of x (tokens, width).
        width: Columns of x.
        wider: Rows of the weight (wider, width).
        device: Device of the product.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(rows, width, generator=generator).to(device) for rows in (tokens, wider)
    )
    return lambda: F.linear(x, weight), 2 * tokens * width * wider


def floor(flops: float, limit_flops: float, limit_seconds: float, flops_per_s: float) -> float:
    """Return the smallest possible ratio to the limit: 1 + (F - F_limit) / (rate t_limit)."""
    return 1 + (flops - limit_flops) / (flops_per_s * limit_seconds)
