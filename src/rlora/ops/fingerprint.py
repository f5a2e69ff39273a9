"""A digest that identifies a backbone by its parameter shapes and samples of its weights."""

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import nn

from rlora.ops.linear_layers import is_quantized

SAMPLES = 1024  # values per tensor that enter the digest


def fingerprint(model: nn.Module, without: Iterable[str]) -> str:
    """Return the digest of a model's shapes and weights as 64 hex digits.

    The digest covers the model type and, per parameter of the backbone, its name, shape and up to
    `SAMPLES` evenly spaced values. The head is not part of it.

    Args:
        model: The model before an adapter is injected.
        without: Names of parameters to leave out: those that were initialized at random.
    """
    excluded = set(without)
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    digest = hashlib.sha256(json.dumps(model_type).encode())
    # Task heads live outside the submodule `base_model_prefix`. A bare backbone has no such prefix:
    # the string is then "." and everything counts.
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for name, parameter in model.named_parameters():
        if name in excluded or not name.startswith(prefix.lstrip(".")):
            continue
        values = parameter.detach().flatten()
        step = max(1, len(values) // SAMPLES)
        # Rounding to bfloat16 makes the digest equal for a float32 and a bfloat16 load of the same
        # checkpoint. Little-endian bytes make it equal on every machine.
        sample = values[::step][:SAMPLES].to("cpu", torch.bfloat16)
        digest.update(f"{name}{tuple(parameter.shape)};".encode())
        digest.update(sample.view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.hexdigest()


def fingerprint_if_known(model: nn.Module, without: Iterable[str]) -> str:
    """Return `fingerprint`, or "" for a model whose weights are quantized or meta."""
    known = not any(
        parameter.is_meta or is_quantized(parameter) for parameter in model.parameters()
    )
    return fingerprint(model, without) if known else ""
