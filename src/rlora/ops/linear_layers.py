"""The shape of a linear layer, and the layout and quantization of its weight."""

from typing import Any, cast

import torch
from torch import Tensor, nn


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is `nn.Linear` (or a subclass) or Hugging Face's `Conv1D`.

    `Conv1D` is recognized by name, because this package depends on torch alone.
    """
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def is_transposed(layer: nn.Module) -> bool:
    """Return whether a layer stores W as (in, out), as `Conv1D` does."""
    return not isinstance(layer, nn.Linear)


def linear_shape(layer: nn.Module) -> tuple[int, int]:
    """Return (out, in) of a layer; a packed weight has another shape than W."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    weight = cast(Tensor, layer.weight)
    return weight.shape[1], weight.shape[0]


def is_quantized(weight: Tensor) -> bool:
    """Return whether a weight is packed integers or a tensor subclass such as torchao's."""
    return type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point()


def dequantized(weight: Tensor) -> Tensor:
    """Return the numbers a weight represents, as an ordinary tensor in the dtype it reports."""
    if not is_quantized(weight):
        return weight
    packed: Any = weight
    # torchao's NF4 tensor names the operation `get_original_weight`, its other tensors `dequantize`
    restore = getattr(packed, "get_original_weight", packed.dequantize)
    return cast(Tensor, restore()).to(weight.dtype)


def row_block(weight: Tensor, layer: nn.Module, start: int, stop: int) -> Tensor:
    """Return rows [start, stop) of W (out, in) in float32 or better, without gradient.

    Args:
        weight: The layer's weight as stored: possibly transposed or quantized.
        layer: The layer it belongs to.
        start: First row.
        stop: Row after the last.
    """
    dense = dequantized(weight.detach())
    rows = (dense.mT if is_transposed(layer) else dense)[start:stop]
    return rows.to(torch.promote_types(dense.dtype, torch.float32))
