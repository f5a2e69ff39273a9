"""A trained adapter in the format of PEFT.

A method that PEFT has as well is written as that tuner, any other update as a LoRA of its factors.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rlora.adapters import AdapterSet
from rlora.adapters.linear import AdaptedLinear
from rlora.adapters.method import PeftFiles
from rlora.adapters.peft.files import PREFIX

TASK_TYPES = {"classification": "SEQ_CLS", "regression": "SEQ_CLS", "text": "CAUSAL_LM"}


def peft_format(
    adapters: AdapterSet, *, kind: str, base: str, as_lora: bool = False
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and tensors of a PEFT adapter that computes the same.

    Args:
        adapters: The trained adapter.
        kind: The head: "classification", "regression" or "text".
        base: Name or path that loads the backbone.
        as_lora: Write a LoRA even if PEFT has a tuner for the method.

    Raises:
        ValueError: PEFT cannot represent the update.
    """
    files = (None if as_lora else adapters.method.to_peft(adapters)) or lora_files(adapters)
    modules, heads = head_modules(adapters)
    # a tuner of PEFT may train further modules in full
    modules = [*files.config.get("modules_to_save", []), *modules]
    config = {
        "target_modules": target_modules(adapters.model, list(adapters.layers)),
        **files.config,
        "task_type": TASK_TYPES[kind],
        "base_model_name_or_path": base,
        "modules_to_save": modules or None,
        "inference_mode": True,
    }
    return config, {**files.tensors, **heads}


def lora_files(adapters: AdapterSet) -> PeftFiles:
    """Return an ordinary LoRA of the exact factors of the updates, without a decomposition.

    A layer with adapted row blocks, such as the fused q, k and v of GPT-2, becomes one pair: the A
    of its blocks are stacked, their B are placed along the diagonal.

    Raises:
        ValueError: An update has no factors, or the method trains weights of the backbone.
    """
    if adapters.trained_in_backbone or not adapters.adapters:
        raise ValueError(
            f"{type(adapters.method).__name__} trains weights of the backbone and has no update: "
            "use --format merged"
        )
    layers = {
        name: layer for name, layer in adapters.layers.items() if isinstance(layer, AdaptedLinear)
    }
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, layer in layers.items():
        b, a = _factors(layer)
        tensors |= {f"{PREFIX}{name}.lora_A.weight": a, f"{PREFIX}{name}.lora_B.weight": b}
        ranks[name] = len(a)
    config = {
        "peft_type": "LORA",
        "r": max(ranks.values()),
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != max(ranks.values())},
        **_alphas(layers, ranks),
        "lora_dropout": getattr(adapters.method, "dropout", 0.0),
        "fan_in_fan_out": all(layer.transposed for layer in layers.values()),
        "bias": "none",
        "init_lora_weights": True,
    }
    return PeftFiles(config, tensors)


@torch.no_grad()
def _factors(layer: AdaptedLinear) -> tuple[Tensor, Tensor]:
    """Return (B, A) of all updates of a layer together, contiguous float32."""
    lefts, rights = [], []
    for (start, stop), update in zip(layer.rows, layer.adapters(), strict=True):
        factors = update.factors()
        if factors is None:
            raise ValueError(
                f"{type(update).__name__} has full rank and no factors: "
                "use --format merged, or --rank"
            )
        left = torch.zeros(layer.out_features, factors[0].shape[1])
        left[start:stop] = factors[0]
        lefts.append(left)
        rights.append(factors[1].float())
    return torch.cat(lefts, dim=1).contiguous(), torch.cat(rights).contiguous()


def _alphas(layers: dict[str, AdaptedLinear], ranks: dict[str, int]) -> dict[str, Any]:
    """Return alpha of all layers: PEFT scales by alpha / r, with the rank r of the layer."""
    alphas = {name: layer.adapters()[0].scale * ranks[name] for name, layer in layers.items()}
    default = alphas[max(ranks, key=lambda name: ranks[name])]
    return {
        "lora_alpha": default,
        "alpha_pattern": {name: alpha for name, alpha in alphas.items() if alpha != default},
    }


def target_modules(model: nn.Module, adapted: list[str]) -> list[str]:
    """Return the suffixes of layer names if they select no other layer, else the full names."""
    suffixes = {name.rpartition(".")[2] for name in adapted}
    selected = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in suffixes}
    return sorted(suffixes) if selected == set(adapted) else adapted


def head_modules(adapters: AdapterSet) -> tuple[list[str], dict[str, Tensor]]:
    """Return the modules that train in full, as PEFT names them, and all of their tensors."""
    base = getattr(adapters.model, "base_model_prefix", "")
    modules = []
    for name in adapters.head:
        first, owner = name.partition(".")[0], name.rpartition(".")[0]
        modules.append(owner if first == base else first)
    modules = list(dict.fromkeys(modules))
    tensors = {
        f"{PREFIX}{module}.{name}": parameter.detach().contiguous()
        for module in modules
        for name, parameter in adapters.model.get_submodule(module).named_parameters()
    }
    return modules, tensors
