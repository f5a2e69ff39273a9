"""Adapter directories in PEFT's format: adapter_config.json and adapter_model.safetensors."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from rlora.adapters.method import PeftFiles
from rlora.io.safetensors import read_tensors

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # prefix of a layer's tensors
BANK = "base_model."  # prefix of tensors that a tuner's layers share
BANKS = {"VERA": ("vera_A", "vera_B"), "RANDLORA": ("randlora_A", "randlora_B")}  # frozen, shared

# Types whose files are tested to restore the whole adapter; others may resample what their files do
# not hold.
COMPLETE = ("LORA", "VERA", "RANDLORA", "FOURIERFT", "IA3", "OFT", "LOHA", "C3A", "VBLORA")
PROVENANCE = {"auto_mapping", "base_model_name_or_path", "revision"}  # not options: left out
# Options that change what PEFT computes, and that the layers of an adapter set cannot express.
UNSUPPORTED = (
    "alora_invocation_tokens",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
)


def read_config(path: Path) -> dict[str, Any]:
    """Read adapter_config.json; keys that the installed PEFT does not know are dropped and logged.

    Raises:
        ValueError: the file is missing or damaged, or of a type that PEFT does not know.
    """
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
    _refuse_expressions(values, path / CONFIG)
    known = _known_keys(values["peft_type"], path)
    # as PEFT itself does: a newer version may have written the file
    if unknown := sorted(set(values) - known):
        log.warning(
            "%s: %s unknown to the installed PEFT, and ignored; a newer PEFT may know it",
            path / CONFIG,
            f"the key {unknown[0]} is" if len(unknown) == 1 else f"{', '.join(unknown)} are",
        )
    values = {key: value for key, value in values.items() if key in known - PROVENANCE}
    try:
        config_object(values)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path / CONFIG} does not fit the installed PEFT: {error}") from error
    return values


def _known_keys(peft_type: str, path: Path) -> set[str]:
    """Return the keys of a type's config.

    Raises:
        ValueError: PEFT does not know the type, or it does not go to linear layers.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    classes = {known.value: kind for known, kind in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if peft_type not in classes:
        raise ValueError(
            f"{path / CONFIG} does not fit the installed PEFT: it has no type {peft_type}"
        )
    known = {field.name for field in dataclasses.fields(classes[peft_type])}
    if "target_modules" not in known:
        raise ValueError(f"{path}: {peft_type} does not go to linear layers")
    return known


def _refuse_expressions(value: Any, path: Path) -> None:
    """Refuse what the config system would evaluate, as a run's config holds this file's values."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if str(key).startswith("_"):
                raise ValueError(f"{path} holds the key {key}, which no PEFT option has")
            _refuse_expressions(inner, path)
    elif isinstance(value, list):
        for inner in value:
            _refuse_expressions(inner, path)
    elif isinstance(value, str) and "${" in value:
        raise ValueError(f"{path} holds {value!r}, which no PEFT option has")


def config_object(values: Mapping[str, Any]) -> Any:
    """Return PEFT's config for the values of an adapter_config.json, ready to train further.

    Raises:
        ValueError: an option has no equivalent in an adapter set.
    """
    from peft import get_peft_config

    for key in UNSUPPORTED:
        if values.get(key):
            raise ValueError(
                f"{key}={values[key]!r} is not supported: use an adapter without {key}"
            )
    config = get_peft_config(dict(values))
    config.inference_mode = False
    if hasattr(config, "modules_to_save"):
        config.modules_to_save = None  # these train in place, without PEFT's copies of them
    return config


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a directory by their names in a model, without the prefix of a layer.

    A file that also holds the biases of `modules_to_save` holds these under three names.

    Raises:
        ValueError: the file is missing or damaged.
    """
    tensors = {
        key.removeprefix(PREFIX): tensor for key, tensor in read_tensors(path / WEIGHTS).items()
    }
    return {
        key: tensor
        for key, tensor in tensors.items()
        if ".original_module." not in key
        and not (".modules_to_save." in key and key.replace(".modules_to_save.", ".") in tensors)
    }


def bank(model: nn.Module, attribute: str, name: str) -> Tensor:
    """Return the frozen tensor that the layers of VeRA and RandLoRA share under a name."""
    for module in model.modules():
        found = getattr(module, attribute, None)
        if found is not None and name in found:
            return cast(Tensor, found[name])
    raise ValueError(f"the model has no {attribute}")


def native(
    model: nn.Module,
    trained: Mapping[str, Tensor],
    whole: Mapping[str, Tensor],
    name: str,
    shared: str,
) -> PeftFiles:
    """Return config and tensors of PEFT's own layers, as PEFT writes them.

    Args:
        model: A model with PEFT's layers.
        trained: What PEFT's layers train, by names without the adapter's.
        whole: Parameters of the backbone that the adapter holds in addition, by present names.
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
    tensors = {_key(key, f"{shared}."): tensor.detach() for key, tensor in trained.items()}
    tensors |= {f"{PREFIX}{key}": tensor.detach() for key, tensor in whole.items()}
    for attribute in BANKS.get(peft_type, ()):
        entries["save_projection"] = True  # the file holds the projections: PEFT must not resample
        tensors[f"{BANK}{attribute}"] = bank(model, attribute, name).detach()
    # a copy each: a file of safetensors holds no tensor under two names
    return PeftFiles(entries, {key: tensor.contiguous().clone() for key, tensor in tensors.items()})


def _key(name: str, shared: str) -> str:
    """Return PEFT's name of a trained tensor."""
    return f"{BANK}{name.removeprefix(shared)}" if name.startswith(shared) else f"{PREFIX}{name}"
