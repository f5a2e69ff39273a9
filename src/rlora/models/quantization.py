"""Frozen weights in 8 or 4 bits by torchao. Adapters stay in float32."""

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from rlora.ops.linear_layers import dequantized

# Dettmers et al. 2023, section 3: weights that share a scale, and scales that share theirs.
BLOCK = 64
SUPERBLOCK = 256


def quantize(model: nn.Module, how: str) -> None:
    """Quantize the weights of the linear layers in a model's blocks, in place.

    int8: W_ij ~ s_i q_ij with one scale per row, 8 bits per weight. nf4: 16 quantiles of the normal
    distribution times one scale per 64 weights, itself in 8 bits, 4.13 bits per weight (QLoRA,
    Dettmers et al., NeurIPS 2023). Embeddings, the output layer and task heads stay dense. Products
    are computed with W dequantized on the fly.

    Args:
        model: A model with nn.Linear in its blocks.
        how: "int8" or "nf4".

    Raises:
        ValueError: `how` is unknown, torchao is missing, or no layer can be quantized.
    """
    quantizers = {"int8": _quantize_int8, "nf4": _quantize_nf4}
    if how not in quantizers:
        raise ValueError(f"model.quantize={how!r} is unknown: choose int8, nf4 or null")
    layers = list(_linear_layers(model))
    if not layers:
        raise ValueError(
            f"model.quantize={how}: {type(model).__name__} has no nn.Linear in its blocks (GPT-2 "
            "has Conv1D, which torchao does not support): set model.quantize=null, and "
            "model.dtype=bfloat16 to save memory"
        )
    _require_torchao(how)
    for layer in layers:
        quantizers[how](layer)


def dequantize(model: nn.Module) -> str | None:
    """Replace quantized weights by dense ones, in place.

    Returns:
        The type of the quantized weights; None if the model was dense.
    """
    quantized = None
    for layer in _linear_layers(model):
        weight: Any = layer.weight
        if type(weight) is not nn.Parameter:
            quantized = type(weight).__name__
            layer.weight = nn.Parameter(dequantized(weight), requires_grad=False)
    return quantized


def _linear_layers(model: nn.Module) -> Iterator[nn.Linear]:
    for name, module in model.named_modules():
        if type(module) is nn.Linear and any(part.isdigit() for part in name.split(".")):
            yield module


def _quantize_int8(layer: nn.Linear) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(layer, Int8WeightOnlyConfig(version=2))
    layer.weight.requires_grad_(False)


def _quantize_nf4(layer: nn.Linear) -> None:
    from torchao.quantization import to_nf4

    blocks, rest = divmod(layer.weight.numel(), BLOCK)
    if rest == 0:  # NF4 needs whole blocks; other layers stay dense
        weight = to_nf4(layer.weight.data, BLOCK, math.gcd(blocks, SUPERBLOCK))
        layer.weight = nn.Parameter(weight, requires_grad=False)


def _require_torchao(how: str) -> None:
    try:
        import torchao  # noqa: F401
    except ImportError:
        raise ValueError(
            f"model.quantize={how} needs torchao: pip install 'rlora[quantization]'"
        ) from None
