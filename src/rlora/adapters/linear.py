"""A frozen linear layer together with its updates."""

from collections.abc import Sequence
from typing import cast

import torch
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
        y: Tensor = self.base(x)
        if self.merged:
            return y
        for (start, stop), update in zip(self.rows, self.updates, strict=True):
            change = update(x)
            if stop - start == y.shape[-1]:
                y = y + change
            else:
                y[..., start:stop] += change
        return y

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
        return self.weight.shape[0 if self.transposed else 1]

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.weight.shape[1 if self.transposed else 0]
