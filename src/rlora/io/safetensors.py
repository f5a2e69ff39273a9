"""Tensors from a file that may come from anywhere: safetensors alone, floating-point, finite."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file whole.

    Raises:
        ValueError: see `parse_tensors`, or the file cannot be read.
    """
    return parse_tensors(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read a file whole.

    Raises:
        ValueError: it does not exist, or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: the adapter directory is not complete") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def parse_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Tensors from a file's content; `path` is for messages.

    Raises:
        ValueError: it is damaged, holds numbers of another kind than floating-point, or some that are not finite.
    """
    try:
        tensors: dict[str, Tensor] = load(content)
    except (
        SafetensorError,
        KeyError,
        ValueError,
        TypeError,
        RuntimeError,
    ) as error:  # the last four by odd dtypes
        raise ValueError(
            f"{path} is damaged or cut short ({error}): save or copy it again"
        ) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{path}: {name} holds {tensor.dtype}, not floating-point numbers")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {name} holds numbers that are not finite")
    return tensors
