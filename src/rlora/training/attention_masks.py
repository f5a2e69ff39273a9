"""Attention masks without a look at the device.

transformers leaves the mask out where no row is padded, which lets attention take its fastest kernel. To find out it
reads the mask's values, and on a GPU every such look waits for all the work under way. The host, which put the batch
together, knows.
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
    """Within it, transformers makes the masks that it always makes, but is told what it would look for.

    Args:
        padded: Whether any row of the batch is padded, in any of its masks; None: not known, let it look.
    """
    _install()
    token = _padded.set(padded)
    try:
        yield
    finally:
        _padded.reset(token)


def _told(make: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """The mask function `make` of transformers, with what is known of the padding."""

    @functools.wraps(make)
    def mask(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
        # under torch.compile transformers does not look either, and what is known of one batch would be compiled in
        padded = None if torch.compiler.is_compiling() else _padded.get()
        if padded:
            options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return make(*args, attention_mask=None if padded is False else attention_mask, **options)

    return mask


@functools.cache
def _install() -> None:
    """Put `_told` around transformers' mask functions; outside `known_padding` they do what they did."""
    for attention in ("sdpa", "eager"):
        ALL_MASK_ATTENTION_FUNCTIONS[attention] = _told(ALL_MASK_ATTENTION_FUNCTIONS[attention])
