"""A frozen linear layer together with its updates.

A plain frozen layer is computed together with its update, by the update's cheapest path. A layer that is more than
that (quantized, hooked, trained itself), dropout on the update's input, torch.compile and torch.func's transforms get
the sum as it is written: the layer's own output plus dW x.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlora.adapters.base import Adapter


class AdaptedLinear(nn.Module):
    """y = W x + c, plus dW x on all rows or on the row blocks that are adapted.

    Args:
        base: nn.Linear, or Hugging Face's Conv1D (which stores W transposed).
        updates: The adapters, each with the rows [start, stop) of the output it changes.
    """

    def __init__(self, base: nn.Module, updates: Sequence[tuple[int, int, Adapter]]) -> None:
        super().__init__()
        self.base = base
        self.updates = nn.ModuleList(adapter for _, _, adapter in updates)
        self.rows = [(start, stop) for start, stop, _ in updates]
        self._set_aside: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        if self.merged:
            merged: Tensor = self.base(x)
            return merged
        if self._plain(x):
            return self._fused(x)
        y: Tensor = self.base(x)
        for (start, stop), update in zip(self.rows, self.updates, strict=True):
            change = update(x)
            if stop - start == y.shape[-1]:
                y = y + change
            else:
                y[..., start:stop] += change
        return y

    def _plain(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return False
        base, weight = self.base, self.weight
        return (
            (type(base) is nn.Linear or type(base).__name__ == "Conv1D")
            and not is_quantized(weight)
            and not (weight.requires_grad or (self.bias is not None and self.bias.requires_grad))
            and not (base._forward_hooks or base._forward_pre_hooks)
            and not (base._backward_hooks or base._backward_pre_hooks)
            and not any(update.drops or update.batched for update in self.adapters())
            and x.is_floating_point()
        )

    def _fused(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.mT if self.transposed else self.weight, self.bias
        if self.rows == [(0, len(weight))]:
            return self.adapters()[0].linear(x, weight, bias)
        parts, at = [], 0
        for (start, stop), update in sorted(
            zip(self.rows, self.adapters(), strict=True), key=lambda pair: pair[0]
        ):
            if at < start:
                parts.append(
                    F.linear(x, weight[at:start], None if bias is None else bias[at:start])
                )
            parts.append(
                update.linear(x, weight[start:stop], None if bias is None else bias[start:stop])
            )
            at = stop
        if at < len(weight):
            parts.append(F.linear(x, weight[at:], None if bias is None else bias[at:]))
        return torch.cat(parts, dim=-1)

    @property
    def merged(self) -> bool:
        """Whether W holds W + dW at present."""
        return self._set_aside is not None

    @torch.no_grad()
    def merge(self) -> None:
        """Put W + dW, added in float32 or better, in the place of W, and W aside."""
        if self.merged:
            raise RuntimeError("the layer is merged already")
        original = self.weight.data
        weight = original.to(torch.promote_types(original.dtype, torch.float32), copy=True)
        by_rows = weight.mT if self.transposed else weight
        for (start, stop), update in zip(self.rows, self.adapters(), strict=True):
            by_rows[start:stop] += update.delta().to(weight.dtype)
        self._set_aside = original
        self.weight.data = weight.to(original.dtype)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the very W that was set aside back: no rounding, no drift."""
        if self._set_aside is None:
            raise RuntimeError("the layer is not merged")
        self.weight.data = self._set_aside
        self._set_aside = None

    def adapters(self) -> list[Adapter]:
        """The updates in the order of their row blocks."""
        return list(self.updates)  # type: ignore[arg-type]

    @property
    def transposed(self) -> bool:
        """Whether the base stores W as (in, out)."""
        return not isinstance(self.base, nn.Linear)

    # what other code reads of a linear layer

    @property
    def weight(self) -> Tensor:
        """The base's weight."""
        return cast(Tensor, self.base.weight)

    @property
    def bias(self) -> Tensor | None:
        """The base's bias."""
        return cast(Tensor | None, self.base.bias)

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return linear_shape(self.base)[1]

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return linear_shape(self.base)[0]


def linear_shape(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of nn.Linear, whose weight may be packed otherwise, or of Conv1D, which stores W transposed."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    weight = cast(Tensor, layer.weight)
    return weight.shape[1], weight.shape[0]


def is_quantized(weight: Tensor) -> bool:
    """Whether a weight is held in fewer bits than its numbers have: packed, or a tensor of another class."""
    return type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point()
