"""Adapter directories as PEFT writes them: adapter_config.json and adapter_model.safetensors."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rlora.io.safetensors import read_tensors

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
BANK = "base_model."  # what layers share


@dataclass(frozen=True)
class Foreign:
    """A directory that PEFT has written.

    Attributes:
        place: The directory.
        config: PEFT's config of it.
        tensors: What it holds, by PEFT's names.
    """

    place: Path
    config: Any
    tensors: dict[str, Tensor]


def read(place: Path) -> Foreign:
    """Read config and weights; nothing but json and safetensors.

    Raises:
        ValueError: a file is missing, damaged, or of a type that PEFT does not know.
    """
    from peft import get_peft_config

    try:
        values = json.loads((place / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"adapter.path={place} has no {CONFIG}: give a directory that PEFT has written"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{place / CONFIG} cannot be read: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("peft_type"), str):
        raise ValueError(f"{place / CONFIG} names no peft_type")
    try:
        config = get_peft_config(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{place / CONFIG} does not fit the installed PEFT: {error}") from error
    if "target_modules" not in getattr(config, "__dataclass_fields__", {}):
        raise ValueError(f"{place}: {values['peft_type']} does not go to linear layers")
    config.inference_mode = False  # it is to be trained further
    if getattr(config, "modules_to_save", None):
        config.modules_to_save = None  # the head is the task's, and takes what the file holds of it
    return Foreign(place, config, read_tensors(place / WEIGHTS))


def fill(model: nn.Module, foreign: Foreign, name: str) -> None:
    """Put the weights, those of modules that trained in full included, into a model that PEFT has adapted.

    Raises:
        ValueError: names or shapes do not fit; the model is left as it was.
    """
    from peft.utils.save_and_load import set_peft_model_state_dict

    own = dict(model.named_parameters())
    tensors = {key.removeprefix(PREFIX): tensor for key, tensor in foreign.tensors.items()}
    whole = {key: own[key] for key in tensors if key in own}  # of the head
    shared = {
        key: _bank(model, key.removeprefix(BANK), name) for key in tensors if key.startswith(BANK)
    }
    tuned = {key: tensor for key, tensor in tensors.items() if key not in whole | shared}
    if hasattr(foreign.config, "save_projection"):
        foreign.config.save_projection = False  # what layers share is put in below
    before = {key: value.detach().clone() for key, value in model.state_dict().items()}
    try:
        for key, place in (whole | shared).items():
            if tensors[key].shape != place.shape:
                raise ValueError(
                    f"{key} has shape {tuple(tensors[key].shape)}, the model needs {tuple(place.shape)}"
                )
        result = set_peft_model_state_dict(model, tuned, adapter_name=name)
        if result.unexpected_keys:
            raise ValueError(f"the model has no {result.unexpected_keys[0]}")
        if lacking := [key for key in result.missing_keys if key in own and own[key].requires_grad]:
            raise ValueError(f"it lacks {lacking[0]}")
    except (RuntimeError, KeyError, ValueError) as error:
        model.load_state_dict(before)
        raise ValueError(
            f"{foreign.place / WEIGHTS} does not fit: {' '.join(str(error).split())[:300]}"
        ) from error
    with torch.no_grad():
        for key, place in (whole | shared).items():
            place.copy_(tensors[key])


def _bank(model: nn.Module, attribute: str, name: str) -> Tensor:
    """The frozen tensor that the layers of VeRA and RandLoRA share under a name."""
    for module in model.modules():
        found = getattr(module, attribute, None)
        if found is not None and name in found:
            return cast(Tensor, found[name])
    raise ValueError(f"the model has no {attribute}")
