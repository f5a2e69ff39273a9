"""Autocast: the dtype that a product runs in, and a context that turns autocast off."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# Asked once: torch 2.11's compiler cannot trace the question, and the meta device raises on others.
WITH_AUTOCAST = frozenset(
    kind for kind in ("cpu", "cuda", "mps", "xpu", "hpu") if torch.amp.is_autocast_available(kind)
)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a product with `x` runs: autocast's dtype if active, else x's."""
    device_type = x.device.type
    if (
        device_type in WITH_AUTOCAST
        and torch.is_autocast_enabled(device_type)
        and x.dtype != torch.float64  # autocast leaves float64 alone, and so do we
    ):
        return torch.get_autocast_dtype(device_type)
    return x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast on x's device.

    Code that chooses its dtypes itself needs it. Under autocast a product that must stay in
    float32 would run in half precision, and so would a backward called under autocast whose
    forward ran outside of it.
    """
    device_type = x.device.type
    return (
        torch.autocast(device_type, enabled=False)
        if device_type in WITH_AUTOCAST
        else nullcontext()
    )
