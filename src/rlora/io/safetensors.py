"""Tensors from an untrusted file: safetensors only, floating-point, finite."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ValueError: the file cannot be read, or see `parse_tensors`.
    """
    return parse_tensors(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read a file of an adapter directory.

    Raises:
        ValueError: the file does not exist or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: the adapter directory is not complete") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def parse_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Return the tensors in the content of a safetensors file, by name.

    Args:
        content: The whole file.
        path: Where it came from, for messages.

    Raises:
        ValueError: the file is damaged, or holds numbers that are not floating-point or not finite.
    """
    try:
        tensors: dict[str, Tensor] = load(content)
    # safetensors raises the last four for unknown dtypes and impossible shapes
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{path} is damaged or cut short ({error}): save or copy it again"
        ) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{path}: {name} holds {tensor.dtype}, not floating-point numbers")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {name} holds numbers that are not finite")
    return tensors
