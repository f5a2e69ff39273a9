"""Attention masks without reading the device.

transformers omits the mask where no row is padded, so that attention uses its fastest kernel. To
decide, it reads the values of the mask, and on a GPU each reading waits for all pending work. The
host assembled the batch and knows.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

_padded: ContextVar[bool | None] = ContextVar("padded", default=None)


@contextmanager
def known_padding(padded: bool | None) -> Iterator[None]:
    """Tell transformers whether the batch is padded: it builds the same masks without reading.

    Args:
        padded: Whether any row of the batch is padded, in any of its masks; None if unknown:
            transformers reads.
    """
    _install()
    token = _padded.set(padded)
    try:
        yield
    finally:
        _padded.reset(token)


def _with_known_padding(make: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """Return the mask function `make` of transformers, using the known padding."""

    @functools.wraps(make)
    def mask(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
        # under torch.compile transformers does not read either, and the padding of one batch would
        # be compiled in
        padded = None if torch.compiler.is_compiling() else _padded.get()
        if padded:
            options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return make(*args, attention_mask=None if padded is False else attention_mask, **options)

    return mask


@functools.cache
def _install() -> None:
    """Wrap transformers' mask functions once; outside `known_padding` they behave as before."""
    for attention in ("sdpa", "eager"):
        ALL_MASK_ATTENTION_FUNCTIONS[attention] = _with_known_padding(
            ALL_MASK_ATTENTION_FUNCTIONS[attention]
        )
