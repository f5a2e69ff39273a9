"""Frozen weights held in 8 or 4 bits, by torchao; adapters stay in float32."""

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from rlora.ops.linear_layers import dequantized

BLOCK, SUPERBLOCK = (
    64,
    256,
)  # weights that share a scale, and scales that share theirs: Dettmers et al. 2023, section 3


def quantize(net: nn.Module, how: str) -> None:
    """Hold the weights of the linear layers inside of a model's blocks in few bits, in place.

    int8: W_ij ~ s_i q_ij with one scale a row, 8 bits a weight. nf4: 16 quantiles of the normal distribution by one
    scale for each 64 weights, itself in 8 bits, 4.13 bits a weight (QLoRA, Dettmers et al., NeurIPS 2023). Embeddings,
    the output layer and task heads stay as they are. What is computed is dense: W is restored for each product.

    Args:
        net: A model whose blocks hold nn.Linear.
        how: "int8" or "nf4".

    Raises:
        ValueError: `how` is unknown, torchao is missing, or no layer can be quantized.
    """
    ways = {"int8": _int8, "nf4": _nf4}
    if how not in ways:
        raise ValueError(f"model.quantize={how!r} is unknown: choose int8, nf4 or null")
    layers = list(_linear_layers(net))
    if not layers:
        raise ValueError(
            f"model.quantize={how}: {type(net).__name__} has no nn.Linear in its blocks (GPT-2 has Conv1D, which "
            "torchao does not take): set model.quantize=null, and model.dtype=bfloat16 to save memory"
        )
    _need_torchao(how)
    for layer in layers:
        ways[how](layer)


def dense(net: nn.Module) -> str | None:
    """Put what quantized weights stand for in their place; tells what they were, None of a dense model."""
    told = None
    for layer in _linear_layers(net):
        weight: Any = layer.weight
        if type(weight) is not nn.Parameter:
            told = type(weight).__name__
            layer.weight = nn.Parameter(dequantized(weight), requires_grad=False)
    return told


def _linear_layers(net: nn.Module) -> Iterator[nn.Linear]:
    for name, module in net.named_modules():
        if type(module) is nn.Linear and any(part.isdigit() for part in name.split(".")):
            yield module


def _int8(layer: nn.Linear) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(layer, Int8WeightOnlyConfig(version=2))
    layer.weight.requires_grad_(False)


def _nf4(layer: nn.Linear) -> None:
    from torchao.quantization import to_nf4

    blocks, rest = divmod(layer.weight.numel(), BLOCK)
    if rest == 0:  # else it stays as it is
        held = to_nf4(layer.weight.data, BLOCK, math.gcd(blocks, SUPERBLOCK))
        layer.weight = nn.Parameter(held, requires_grad=False)


def _need_torchao(how: str) -> None:
    try:
        import torchao  # noqa: F401
    except ImportError:
        raise ValueError(
            f"model.quantize={how} needs torchao: pip install 'rlora[quantization]'"
        ) from None
