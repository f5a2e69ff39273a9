"""As PEFT's RandLoRA, its projections included."""

import math
from typing import Any

import torch
from torch import Tensor

from rlora.adapters import AdapterSet
from rlora.adapters.linear import AdaptedLinear
from rlora.adapters.randlora import RandLoRA, RandLoRALayer
from rlora.export.peft_lora import PREFIX, TASK_TYPES, head_modules, targets


@torch.no_grad()
def peft_randlora(
    adapters: AdapterSet, *, kind: str, base: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and tensors of a PEFT RandLoRA that computes the same.

    PEFT flattens A's rows as (r, n) and B's columns as (n, r), and multiplies one by the other: column p of B_j must
    stand at place p n + j. That is a permutation of B, the same for all layers if their n is.

    Args:
        adapters: What was trained by RandLoRA.
        kind: The head: "classification", "regression" or "text".
        base: Name or path of the backbone.

    Raises:
        ValueError: another method; row blocks of a fused layer, which PEFT has not; or layers of different n.
    """
    method = adapters.method
    if not isinstance(method, RandLoRA):
        raise ValueError(
            f"PEFT's RandLoRA holds what adapter=randlora trained, not {type(method).__name__}"
        )
    layers = {
        name: module
        for name, module in adapters.model.named_modules()
        if isinstance(module, AdaptedLinear)
    }
    updates = {name: _whole(name, layer) for name, layer in layers.items()}
    first = next(iter(updates.values()))
    products = len(first.lambda_)
    if odd := [name for name, update in updates.items() if len(update.lambda_) != products]:
        raise ValueError(
            f"{odd[0]} has {len(updates[odd[0]].lambda_)} products of bases and others {products}, which PEFT pairs "
            "otherwise: use --format merged or --rank"
        )
    tensors: dict[str, Tensor] = {}
    for name, update in updates.items():
        tensors[f"{PREFIX}.{name}.randlora_lambda"] = update.lambda_.t().contiguous()
        tensors[f"{PREFIX}.{name}.randlora_gamma"] = update.gamma.detach().contiguous()
    tensors |= _banks(first, list(updates.values()))
    modules, heads = head_modules(adapters)
    config = {
        "peft_type": "RANDLORA",
        "task_type": TASK_TYPES[kind],
        "base_model_name_or_path": base,
        "r": method.rank,
        "randlora_alpha": first.scale * method.rank,
        "randlora_dropout": method.dropout,
        "target_modules": targets(adapters.model, list(layers)),
        "modules_to_save": modules or None,
        "save_projection": True,
        "projection_prng_key": 0,  # the file holds them
        "fan_in_fan_out": all(layer.transposed for layer in layers.values()),
        "inference_mode": True,
        "bias": "none",
    }
    return config, {**tensors, **heads}


def _banks(first: RandLoRALayer, updates: list[RandLoRALayer]) -> dict[str, Tensor]:
    """A and the permuted B, with zeros up to the sizes that PEFT gives them: it looks at rows and columns apart."""
    tallest, widest = (
        max(u.site.out_features for u in updates),
        max(u.site.in_features for u in updates),
    )
    small, large = sorted((tallest, widest))
    a, b = first.bases.A, first.bases.B
    products, rank = b.shape[1:]
    left = b.new_zeros(large, math.ceil(small / rank), rank)
    left[: len(b), :products] = b.transpose(1, 2).reshape(b.shape)
    right = a.new_zeros(rank, 1, small)
    right[:, 0, : a.shape[1]] = a
    return {"base_model.randlora_A": right, "base_model.randlora_B": left}


def _whole(name: str, layer: AdaptedLinear) -> RandLoRALayer:
    if layer.rows != [(0, layer.out_features)]:
        raise ValueError(
            f"{name} is adapted in parts, which PEFT's RandLoRA cannot be: use --format merged or --rank"
        )
    update = layer.adapters()[0]
    assert isinstance(update, RandLoRALayer)
    return update
