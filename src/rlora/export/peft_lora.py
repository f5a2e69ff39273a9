"""As an ordinary LoRA of PEFT: any update with exact factors, without a decomposition."""

from typing import Any

import torch
from torch import Tensor, nn

from rlora.adapters import AdapterSet
from rlora.adapters.linear import AdaptedLinear

PREFIX = "base_model.model"
TASK_TYPES = {"classification": "SEQ_CLS", "regression": "SEQ_CLS", "text": "CAUSAL_LM"}


def peft_lora(
    adapters: AdapterSet, *, kind: str, base: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and tensors of a PEFT LoRA that computes the same.

    A layer whose row blocks are adapted, as GPT-2's fused q, k and v, becomes one pair: the A of its blocks one above
    the other, their B along the diagonal.

    Args:
        adapters: What was trained.
        kind: The head: "classification", "regression" or "text".
        base: Name or path of the backbone, for those who load it.

    Raises:
        ValueError: an update has no factors, or something else than updates and head was trained.
    """
    if adapters.trained_in_backbone or not adapters.adapters:
        raise ValueError(
            f"{type(adapters.method).__name__} trains the backbone's own weights and has no update: use --format merged"
        )
    layers = {
        name: module
        for name, module in adapters.model.named_modules()
        if isinstance(module, AdaptedLinear)
    }
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        b, a = _factors(layer)
        tensors[f"{PREFIX}.{name}.lora_A.weight"], tensors[f"{PREFIX}.{name}.lora_B.weight"] = a, b
    ranks = {name: len(tensors[f"{PREFIX}.{name}.lora_A.weight"]) for name in layers}
    modules, heads = head_modules(adapters)
    config = {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[kind],
        "base_model_name_or_path": base,
        "r": max(ranks.values()),
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != max(ranks.values())},
        **_alphas(layers, ranks),
        "target_modules": targets(adapters.model, list(layers)),
        "modules_to_save": modules or None,
        "lora_dropout": getattr(adapters.method, "dropout", 0.0),
        "fan_in_fan_out": all(layer.transposed for layer in layers.values()),
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
    }
    return config, {**tensors, **heads}


@torch.no_grad()
def _factors(layer: AdaptedLinear) -> tuple[Tensor, Tensor]:
    """(B, A) of a layer's updates together, contiguous float32."""
    lefts, rights = [], []
    for (start, stop), update in zip(layer.rows, layer.adapters(), strict=True):
        factors = update.factors()
        if factors is None:
            raise ValueError(
                f"{type(update).__name__} has full rank and no factors: use --format merged, or --rank"
            )
        left = torch.zeros(layer.out_features, factors[0].shape[1])
        left[start:stop] = factors[0]
        lefts.append(left)
        rights.append(factors[1].float())
    return torch.cat(lefts, dim=1).contiguous(), torch.cat(rights).contiguous()


def _alphas(layers: dict[str, AdaptedLinear], ranks: dict[str, int]) -> dict[str, Any]:
    """PEFT scales by alpha / r of the layer."""
    alphas = {name: layer.adapters()[0].scale * ranks[name] for name, layer in layers.items()}
    usual = alphas[max(ranks, key=lambda name: ranks[name])]
    return {
        "lora_alpha": usual,
        "alpha_pattern": {name: alpha for name, alpha in alphas.items() if alpha != usual},
    }


def targets(model: nn.Module, adapted: list[str]) -> list[str]:
    """Last parts of the layers' names where they mean these layers and no others, else the whole names."""
    suffixes = {name.rpartition(".")[2] for name in adapted}
    meant = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in suffixes}
    return sorted(suffixes) if meant == set(adapted) else adapted


def head_modules(adapters: AdapterSet) -> tuple[list[str], dict[str, Tensor]]:
    """Modules that train in full beside the adapter, as PEFT names them, and all of their tensors."""
    base = getattr(adapters.model, "base_model_prefix", "")
    modules = []
    for name in adapters.head:
        first, owner = name.partition(".")[0], name.rpartition(".")[0]
        modules.append(owner if first == base else first)
    modules = list(dict.fromkeys(modules))
    tensors = {
        f"{PREFIX}.{module}.{name}": parameter.detach().contiguous()
        for module in modules
        for name, parameter in adapters.model.get_submodule(module).named_parameters()
    }
    return modules, tensors
