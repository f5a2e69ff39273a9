"""Part "files": sizes of the adapters' files, and the time to load them."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.models import random_model, same_weights
from benchmarks.progress import within
from benchmarks.settings import FileSettings
from benchmarks.timing import Action, Prepare, Say, compare, take_turns
from benchmarks.variants import adapted_modules, our_methods, peft_configs
from rlora.adapters import Method, checkpoint, inject

BACKBONE = {"source": "random weights", "fingerprint": "benchmark"}
PROJECTION = ", projection saved"


def measure(settings: FileSettings, device: torch.device, say: Say) -> dict[str, Any]:
    """Save and load every adapter.

    Returns:
        By adapter: "bytes" of the tensor file, "parameters" that train, "attach" (load into a bare
        backbone, with the frozen matrices regenerated) and "fill" (load into a model that has the
        adapter already).
    """
    base = random_model(settings.encoder.config(), kind="classification", device=device)
    modules = adapted_modules(base, ("q", "v"))
    sizes: dict[str, dict[str, int]] = {}
    attach: dict[str, Prepare] = {}
    fill: dict[str, Prepare] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, method in our_methods(settings.ranks, modules).items():
            say(f"saving {name}")
            sizes[name], attach[name], fill[name] = _ours(base, method, Path(scratch) / name)
        plain = peft_configs(settings.ranks, modules, projection=False)
        whole = peft_configs(settings.ranks, modules)
        configs = plain | {
            f"{name}{PROJECTION}": whole[name] for name in ("peft vera", "peft randlora")
        }
        for name, config in configs.items():
            say(f"saving {name}")
            sizes[name], attach[name], fill[name] = _peft(
                base, config, Path(scratch) / name, device
            )
        for action in (*attach.values(), *fill.values()):
            action()()  # warm-up
        attached = compare(
            take_turns(attach, settings.rounds, device, say=within(say, "attaching")), "lora"
        )
        filled = compare(
            take_turns(fill, settings.rounds, device, say=within(say, "filling")), "lora"
        )
    return {name: {**sizes[name], "attach": attached[name], "fill": filled[name]} for name in sizes}


def _ours(base: nn.Module, method: Method, folder: Path) -> tuple[dict[str, int], Prepare, Prepare]:
    adapters = inject(same_weights(base), method)
    size = checkpoint.save(adapters, folder, backbone=BACKBONE, extra={})

    def attach() -> Action:
        model = same_weights(base)
        return lambda: checkpoint.load(
            inject(model, method), folder, fingerprint=BACKBONE["fingerprint"]
        )

    def fill() -> Action:
        return lambda: checkpoint.load(adapters, folder, fingerprint=BACKBONE["fingerprint"])

    return {"bytes": size, "parameters": adapters.report().adapter}, attach, fill


def _peft(
    base: nn.Module, config: Any, folder: Path, device: torch.device
) -> tuple[dict[str, int], Prepare, Prepare]:
    import peft

    model = peft.get_peft_model(same_weights(base), config)
    parameters = sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad
    )
    model.save_pretrained(str(folder))
    size = (folder / "adapter_model.safetensors").stat().st_size

    def attach() -> Action:
        bare = same_weights(base)
        return lambda: peft.PeftModel.from_pretrained(bare, str(folder), torch_device=device.type)

    def fill() -> Action:
        return _filling(model, folder, device)

    return {"bytes": size, "parameters": parameters}, attach, fill


def _filling(model: nn.Module, folder: Path, device: torch.device) -> Callable[[], object]:
    import peft

    return lambda: peft.set_peft_model_state_dict(
        model, peft.load_peft_weights(str(folder), device=device.type)
    )
