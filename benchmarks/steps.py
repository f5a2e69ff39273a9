"""Part "steps": time and memory of a training step with each adapter and without one."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.arithmetic import floor, flops_of, large_product
from benchmarks.memory import footprint, saved_for_backward
from benchmarks.models import count_trained, loss_of, random_batch, random_model, step_of
from benchmarks.progress import within
from benchmarks.settings import StepSettings
from benchmarks.timing import Prepare, Say, compare, take_turns
from benchmarks.variants import LIMIT, Variant, adapted_modules, parameters_beginning_with, variants

PRODUCT = "large product"
# The bias makes gradients flow to the bottom of the model, whichever layers are adapted.
TRAINED = ("classifier.", "roberta.embeddings.LayerNorm.bias")


def measure(settings: StepSettings, device: torch.device, say: Say) -> dict[str, Any]:
    """Time steps and count memory.

    Returns:
        By selection of targets: {"layers": number of adapted layers, "flops_per_s": rate of a large
        product that took its turn, "variants": {name: times, ratios, bytes, counts, "flops" and
        "floor", the ratio that these FLOPs allow}}.
    """
    return {
        label: _one_selection(settings, selection, device, within(say, label))
        for label, selection in settings.targets.items()
    }


def _one_selection(
    settings: StepSettings, selection: str | Sequence[str], device: torch.device, say: Say
) -> dict[str, Any]:
    forwards: dict[str, Callable[[], Tensor]] = {}
    facts: dict[str, dict[str, float]] = {}
    layers = 0
    for variant in variants(settings.ranks):
        say(f"memory of {variant.name}")
        model, layers = _model(settings, variant, selection, device)
        batch = random_batch(model, "classification", settings.batch, settings.length, device)
        forward = loss_of(model, batch)
        saved = saved_for_backward(forward, model)
        used = footprint(forward, device)  # also the warm-up
        facts[variant.name] = {
            "trained": count_trained(model),
            "saved_bytes": saved,
            "held_bytes": used["held"],
            "peak_bytes": used["peak"],
            "flops": flops_of(forward),
        }
        forwards[variant.name] = forward
    steps: dict[str, Prepare] = {
        name: partial(step_of, forward) for name, forward in forwards.items()
    }
    encoder = settings.encoder
    product, flops = large_product(
        settings.batch * settings.length, encoder.hidden, encoder.intermediate, device
    )
    product()
    seconds = take_turns(steps | {PRODUCT: lambda: product}, settings.rounds, device, say=say)
    rate = flops / statistics.median(seconds.pop(PRODUCT))
    times = compare(seconds, LIMIT)
    limit = times[LIMIT]["median_s"]
    for counts in facts.values():
        counts["floor"] = floor(counts["flops"], facts[LIMIT]["flops"], limit, rate)
    return {
        "layers": layers,
        "flops_per_s": rate,
        "variants": {name: times[name] | facts[name] for name in times},
    }


def _model(
    settings: StepSettings, variant: Variant, selection: str | Sequence[str], device: torch.device
) -> tuple[nn.Module, int]:
    model = random_model(settings.encoder.config(), kind="classification", device=device)
    modules = adapted_modules(model, selection)
    return variant.put_in(model, modules, parameters_beginning_with(model, TRAINED)), len(modules)
