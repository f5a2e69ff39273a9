"""Part "inject": time to inject an adapter, with its frozen matrices regenerated."""

from typing import Any

import torch
from torch import nn

from benchmarks.models import random_model, same_weights
from benchmarks.settings import InjectSettings
from benchmarks.timing import Action, Prepare, Say, compare, take_turns
from benchmarks.variants import LIMIT, Variant, adapted_modules, variants


def measure(settings: InjectSettings, device: torch.device, say: Say) -> dict[str, Any]:
    """Time the injection of each adapter: {name: times, ratios to LoRA's}."""
    base = random_model(settings.encoder.config(), kind="classification", device=device)
    modules = adapted_modules(base, ("q", "v"))
    compared = [variant for variant in variants(settings.ranks) if variant.name != LIMIT]
    candidates = {variant.name: _prepared(base, variant, modules) for variant in compared}
    candidates["peft lora"]()()  # warm-up: PEFT imports modules at its first use
    return compare(take_turns(candidates, settings.rounds, device, say=say), "lora")


def _prepared(base: nn.Module, variant: Variant, modules: list[str]) -> Prepare:
    def prepare() -> Action:
        model = same_weights(base)
        return lambda: variant.put_in(model, modules, ())

    return prepare
