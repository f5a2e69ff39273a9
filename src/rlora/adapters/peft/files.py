"""Adapter directories in PEFT's format: adapter_config.json and adapter_model.safetensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rlora.adapters.method import PeftFiles
from rlora.io.safetensors import read_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # prefix of a layer's tensors
BANK = "base_model."  # prefix of tensors that a tuner's layers share
BANKS = {"VERA": ("vera_A", "vera_B"), "RANDLORA": ("randlora_A", "randlora_B")}  # frozen, shared

# Types whose files are tested to restore the whole adapter; others may resample what their files do
# not hold.
COMPLETE = ("LORA", "VERA", "RANDLORA", "FOURIERFT", "IA3", "OFT", "LOHA", "C3A", "VBLORA")


@dataclass(frozen=True)
class PeftDirectory:
    """A directory that PEFT has written.

    Attributes:
        path: The directory.
        config: PEFT's config of it.
        tensors: Its tensors, by PEFT's names.
    """

    path: Path
    config: Any
    tensors: dict[str, Tensor]


def read(path: Path) -> PeftDirectory:
    """Read config and weights, from json and safetensors only.

    Raises:
        ValueError: a file is missing, damaged, or of a type that PEFT does not know.
    """
    from peft import get_peft_config

    try:
        values = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"adapter.path={path} has no {CONFIG}: give a directory that PEFT has written"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path / CONFIG} cannot be read: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("peft_type"), str):
        raise ValueError(f"{path / CONFIG} names no peft_type")
    try:
        config = get_peft_config(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path / CONFIG} does not fit the installed PEFT: {error}") from error
    if "target_modules" not in getattr(config, "__dataclass_fields__", {}):
        raise ValueError(f"{path}: {values['peft_type']} does not go to linear layers")
    config.inference_mode = False  # it trains further
    if getattr(config, "modules_to_save", None):
        config.modules_to_save = (
            None  # the task owns the head; `fill` puts in what the file holds of it
        )
    return PeftDirectory(path, config, read_tensors(path / WEIGHTS))


def fill(model: nn.Module, directory: PeftDirectory, name: str) -> None:
    """Copy the weights into a model that PEFT has adapted, those of the head included.

    Raises:
        ValueError: names or shapes do not fit; the model is unchanged.
    """
    from peft.utils.save_and_load import set_peft_model_state_dict

    parameters = dict(model.named_parameters())
    tensors = {key.removeprefix(PREFIX): tensor for key, tensor in directory.tensors.items()}
    whole = {key: parameters[key] for key in tensors if key in parameters}  # of the head
    shared = {
        key: _bank(model, key.removeprefix(BANK), name) for key in tensors if key.startswith(BANK)
    }
    tuned = {key: tensor for key, tensor in tensors.items() if key not in whole | shared}
    if hasattr(directory.config, "save_projection"):
        directory.config.save_projection = False  # the shared tensors are copied below
    before = {key: value.detach().clone() for key, value in model.state_dict().items()}
    try:
        for key, target in (whole | shared).items():
            if tensors[key].shape != target.shape:
                raise ValueError(
                    f"{key} has shape {tuple(tensors[key].shape)}, the model needs "
                    f"{tuple(target.shape)}"
                )
        result = set_peft_model_state_dict(model, tuned, adapter_name=name)
        if result.unexpected_keys:
            raise ValueError(f"the model has no {result.unexpected_keys[0]}")
        lacking = [
            key
            for key in result.missing_keys
            if key in parameters and parameters[key].requires_grad
        ]
        if lacking:
            raise ValueError(f"it lacks {lacking[0]}")
    except (RuntimeError, KeyError, ValueError) as error:
        # PEFT copies tensor by tensor: an error may leave some of them copied
        model.load_state_dict(before)
        raise ValueError(
            f"{directory.path / WEIGHTS} does not fit: {' '.join(str(error).split())[:300]}"
        ) from error
    with torch.no_grad():
        for key, target in (whole | shared).items():
            target.copy_(tensors[key])


def _bank(model: nn.Module, attribute: str, name: str) -> Tensor:
    """Return the frozen tensor that the layers of VeRA and RandLoRA share under a name."""
    for module in model.modules():
        bank = getattr(module, attribute, None)
        if bank is not None and name in bank:
            return cast(Tensor, bank[name])
    raise ValueError(f"the model has no {attribute}")


def native(
    model: nn.Module, trained: Mapping[str, nn.Parameter], name: str, shared: str
) -> PeftFiles:
    """Return config and tensors of PEFT's own layers, as PEFT writes them.

    Args:
        model: A model with PEFT's layers.
        trained: What PEFT trains, by names without the adapter's.
        name: PEFT's name of the adapter.
        shared: Attribute of the model that holds what the layers share.

    Raises:
        ValueError: a type whose files may not hold all of it.
    """
    config: Any = model.peft_config[name]  # type: ignore[index]
    peft_type = config.peft_type.value
    if peft_type not in COMPLETE:
        raise ValueError(
            f"PEFT's files of {peft_type} are not known to hold the whole adapter: use --format "
            f"merged, or one of {', '.join(COMPLETE)}"
        )
    entries = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
    tensors = {
        _key(key, f"{shared}."): parameter.detach().contiguous()
        for key, parameter in trained.items()
    }
    for attribute in BANKS.get(peft_type, ()):
        entries["save_projection"] = True  # the file holds the projections: PEFT must not resample
        tensors[f"{BANK}{attribute}"] = _bank(model, attribute, name).detach().contiguous()
    return PeftFiles(entries, tensors)


def _key(name: str, shared: str) -> str:
    """Return PEFT's name of a trained tensor."""
    return f"{BANK}{name.removeprefix(shared)}" if name.startswith(shared) else f"{PREFIX}{name}"
