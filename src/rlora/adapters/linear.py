"""A frozen linear layer together with its updates.

A plain frozen layer and its update run as one function, by the update's cheapest path. Other layers
(quantized, hooked, trained in place), dropout on the update's input, torch.compile and the
transforms of torch.func run the sum as written: the layer's output plus dW x.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlora.adapters.base import Adapter
from rlora.ops.linear_layers import is_quantized, is_transposed, linear_shape, row_block

# Attribute of a merged layer that holds its original weight. It is on the layer and not on the
# wrapper: `FrozenWeight` knows the layer only, and several wrappers may share one layer.
SET_ASIDE = "_weight_before_merging"


class AdaptedLinear(nn.Module):
    """y = W x + c, plus dW x on all rows or on the adapted row blocks.

    Args:
        base: nn.Linear, or Hugging Face's Conv1D (which stores W transposed).
        updates: The adapters, each with the rows [start, stop) of the output it changes.
    """

    def __init__(self, base: nn.Module, updates: Sequence[tuple[int, int, Adapter]]) -> None:
        super().__init__()
        self.base = base
        self.updates = nn.ModuleList(adapter for _, _, adapter in updates)
        self.rows = [(start, stop) for start, stop, _ in updates]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        if self.merged:
            merged: Tensor = self.base(x)
            return merged
        if self._fusible(x):
            return self._fused(x)
        y: Tensor = self.base(x)
        for (start, stop), update in zip(self.rows, self.updates, strict=True):
            change = update(x)
            if stop - start == y.shape[-1]:
                y = y + change
            else:
                y[..., start:stop] += change
        return y

    def _fusible(self, x: Tensor) -> bool:
        """Return whether one autograd function may replace the layer's own forward pass."""
        # the custom functions support neither tracing nor functional transforms
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return False
        base, weight = self.base, self.weight
        return (
            # a subclass of nn.Linear may compute something else
            (type(base) is nn.Linear or type(base).__name__ == "Conv1D")
            and not is_quantized(weight)
            # the fused functions return no gradient of W and c, and call no hooks
            and not (weight.requires_grad or (self.bias is not None and self.bias.requires_grad))
            and not (base._forward_hooks or base._forward_pre_hooks)
            and not (base._backward_hooks or base._backward_pre_hooks)
            # dropout and per-example parameters act on the update's input only, not on W's
            and not any(update.drops or update.batched for update in self.adapters())
            and x.is_floating_point()
        )

    def _fused(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.mT if self.transposed else self.weight, self.bias
        if self.rows == [(0, len(weight))]:
            return self.adapters()[0].linear(x, weight, bias)
        outputs: list[Tensor] = []
        end = 0
        blocks = sorted(zip(self.rows, self.adapters(), strict=True), key=lambda block: block[0])
        for (start, stop), update in blocks:
            if end < start:  # rows between two adapted blocks
                outputs.append(F.linear(x, weight[end:start], _rows_of(bias, end, start)))
            outputs.append(update.linear(x, weight[start:stop], _rows_of(bias, start, stop)))
            end = stop
        if end < len(weight):
            outputs.append(F.linear(x, weight[end:], _rows_of(bias, end, len(weight))))
        return torch.cat(outputs, dim=-1)

    @property
    def merged(self) -> bool:
        """Whether the layer currently holds W + dW."""
        # runs in every forward pass: getattr of a missing attribute takes 20 times as long
        return SET_ASIDE in self.base.__dict__

    @torch.no_grad()
    def merge(self) -> None:
        """Replace W by W + dW, added in float32 or better, and set W aside.

        Raises:
            RuntimeError: the layer is merged already.
        """
        if self.merged:
            raise RuntimeError("the layer is merged already")
        original = self.weight.data
        weight = original.to(torch.promote_types(original.dtype, torch.float32), copy=True)
        by_rows = weight.mT if self.transposed else weight
        for (start, stop), update in zip(self.rows, self.adapters(), strict=True):
            by_rows[start:stop] += update.delta().to(weight.dtype)
        setattr(self.base, SET_ASIDE, original)
        self.weight.data = weight.to(original.dtype)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put back the original tensor W itself: subtracting dW would round.

        Raises:
            RuntimeError: the layer is not merged.
        """
        if not self.merged:
            raise RuntimeError("the layer is not merged")
        # moving or casting the merged model changed its weights, but not the tensor set aside
        self.weight.data = getattr(self.base, SET_ASIDE).to(self.weight)
        delattr(self.base, SET_ASIDE)

    def adapters(self) -> list[Adapter]:
        """Return the updates in the order of `rows`."""
        return list(self.updates)  # type: ignore[arg-type]

    @property
    def transposed(self) -> bool:
        """Whether the base stores W as (in, out)."""
        return is_transposed(self.base)

    # attributes that other code reads from a linear layer

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


class FrozenWeight:
    """Reads one row block of a layer's original W on each call; see `Site.weight`.

    It holds the layer and no tensor, so that it follows the layer to another device, and copies and
    pickles with it.

    Args:
        layer: nn.Linear or Conv1D, without its wrapper.
        start: First row of the block.
        stop: Row after the last.
    """

    def __init__(self, layer: nn.Module, start: int, stop: int) -> None:
        self.layer = layer
        self.start, self.stop = start, stop

    def __call__(self) -> Tensor | None:
        """Return W (out, in) in float32 or better; None on the meta device."""
        set_aside = getattr(self.layer, SET_ASIDE, None)
        present = cast(Tensor, self.layer.weight)
        weight = present if set_aside is None else set_aside.to(present)
        if weight.is_meta:
            return None
        return row_block(weight, self.layer, self.start, self.stop)


def _rows_of(bias: Tensor | None, start: int, stop: int) -> Tensor | None:
    return None if bias is None else bias[start:stop]
