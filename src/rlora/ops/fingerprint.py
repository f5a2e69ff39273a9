"""A digest that tells two models apart by samples of their weights."""

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import nn

SAMPLES = 1024  # numbers of each tensor that enter it


def fingerprint(net: nn.Module, without: Iterable[str]) -> str:
    """Digest of a model's shapes and of evenly spaced samples of its weights, 64 hex digits; its head apart.

    Samples are rounded to bfloat16, so that it is the same whether the weights are held in float32 or bfloat16.

    Args:
        net: The model before any adapter.
        without: Names of parameters to leave out: those that started at random.
    """
    left_out = set(without)
    kind = getattr(getattr(net, "config", None), "model_type", "")
    digest = hashlib.sha256(json.dumps(kind).encode())
    base = f"{getattr(net, 'base_model_prefix', '')}."
    for name, parameter in net.named_parameters():
        if name in left_out or not name.startswith(base.lstrip(".")):
            continue
        flat = parameter.detach().flatten()
        step = max(1, len(flat) // SAMPLES)
        sample = flat[::step][:SAMPLES].to("cpu", torch.bfloat16)
        digest.update(f"{name}{tuple(parameter.shape)};".encode())
        digest.update(sample.view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.hexdigest()
