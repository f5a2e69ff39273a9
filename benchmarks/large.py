"""Part "large": training steps of published shapes in bfloat16.

The adapters run one after the other, not in turns: few models fit into memory together.
"""

import gc
from typing import Any

import torch

from benchmarks.memory import footprint
from benchmarks.models import (
    count_trained,
    forget_gradients,
    loss_of,
    random_batch,
    random_model,
    step_of,
)
from benchmarks.progress import within
from benchmarks.settings import LargeModel, LargeSettings
from benchmarks.timing import Say, compare, seconds_of
from benchmarks.variants import LIMIT, Variant, adapted_modules, parameters_beginning_with, variants


def measure(settings: LargeSettings, device: torch.device, say: Say) -> dict[str, Any]:
    """Measure every model with every adapter.

    Returns:
        By model: {"tokens": tokens per step, "variants": {name: times, ratios, tokens per second
        and bytes, or its "error"}}.
    """
    result = {}
    for model in settings.models:
        measured = {
            variant.name: _measured_or_error(
                settings, model, variant, device, within(say, model.name)
            )
            for variant in variants(settings.ranks)
        }
        result[model.name] = {
            "tokens": model.batch * model.length,
            "variants": with_ratios(measured),
        }
    return result


def with_ratios(measured: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add medians, ratios to the limit and throughput to the variants that did not fail.

    There are no ratios if the limit failed.
    """
    ran = {name: facts["rounds_s"] for name, facts in measured.items() if "rounds_s" in facts}
    reference = LIMIT if LIMIT in ran else next(iter(ran), None)
    times = compare(ran, reference) if reference else {}
    if reference != LIMIT:
        times = {
            name: {k: v for k, v in facts.items() if "ratio" not in k}
            for name, facts in times.items()
        }
    merged = {name: facts | times.get(name, {}) for name, facts in measured.items()}
    for facts in merged.values():
        if "median_s" in facts:
            facts["tokens_per_s"] = facts["tokens"] / facts["median_s"]
    return merged


def _measured_or_error(
    settings: LargeSettings, model: LargeModel, variant: Variant, device: torch.device, say: Say
) -> dict[str, Any]:
    say(variant.name)
    try:
        return _one(settings, model, variant, device)
    except Exception as error:
        # A variant that does not fit into memory must not stop the others. The error is reported.
        text = str(error).strip().splitlines()
        say(f"{variant.name} failed: {type(error).__name__}")
        return {"error": f"{type(error).__name__}: {text[0] if text else ''}"}
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _one(
    settings: LargeSettings, shape: LargeModel, variant: Variant, device: torch.device
) -> dict[str, Any]:
    bare: Any = random_model(shape.config, kind=shape.kind, device=device, dtype=torch.bfloat16)
    head = parameters_beginning_with(bare, shape.trained)
    model: Any = variant.put_in(bare, adapted_modules(bare, shape.targets), head)
    if shape.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    batch = random_batch(model, shape.kind, shape.batch, shape.length, device)
    forward = loss_of(model, batch, autocast=torch.bfloat16)
    step = step_of(forward)
    for _ in range(settings.warm_up):
        step()
    rounds = [seconds_of(step, device) for _ in range(settings.rounds)]
    forget_gradients(model.parameters())
    used = footprint(forward, device)
    return {
        "trained": count_trained(model),
        "tokens": shape.batch * shape.length,
        "rounds_s": rounds,
        "peak_bytes": used["peak"] + used.get("resident", 0),
        "held_bytes": used["held"],
    }
