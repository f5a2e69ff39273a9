"""Copy the weights of a PEFT directory into a model that PEFT has adapted."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rlora.adapters.peft.files import BANK, WEIGHTS, bank, read_weights

log = logging.getLogger(__name__)


def fill(model: nn.Module, path: Path, name: str, *, head: Collection[str]) -> bool:
    """Copy a directory's weights into a model, those of the head included.

    A head of other shapes belongs to another task: it is left out, and the model keeps its own.

    Args:
        model: A model with PEFT's layers under `name`.
        path: A directory that PEFT has written.
        name: PEFT's name of the adapter.
        head: Names of the head's parameters.

    Returns:
        Whether the model now holds the head of the directory, if that has one.

    Raises:
        ValueError: names or shapes do not fit, or the directory belongs to another backbone; the
            model is unchanged.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    head = {_present_name(key, parameters) for key in head}
    tensors = {_present_name(key, parameters): value for key, value in read_weights(path).items()}
    same_head = not _other_classes(tensors, {key: parameters[key] for key in head})
    if not same_head:
        log.info("the head of %s belongs to another task: only the adapter is loaded", path)
        tensors = {key: tensor for key, tensor in tensors.items() if key not in head}
    whole: dict[str, Tensor] = {key: parameters[key] for key in tensors if key in parameters}
    before = {key: value.detach().clone() for key, value in model.state_dict().items()}
    try:
        shared = {
            key: bank(model, key.removeprefix(BANK), name)
            for key in tensors
            if key.startswith(BANK)
        }
        targets = whole | shared
        _check(tensors, targets)
        _refuse_other_backbone(tensors, whole, head)
        tuned = {key: tensor for key, tensor in tensors.items() if key not in targets}
        _load_layers(model, tuned, name, whole)
    except (RuntimeError, KeyError, ValueError) as error:
        # PEFT copies tensor by tensor: an error may leave some of them copied
        model.load_state_dict(before)
        raise ValueError(
            f"{path / WEIGHTS} does not fit: {' '.join(str(error).split())[:300]}"
        ) from error
    with torch.no_grad():
        for key, target in targets.items():
            target.copy_(tensors[key])
    return same_head


def _present_name(key: str, parameters: Mapping[str, nn.Parameter]) -> str:
    """Return the name of a tensor in the adapted model.

    PEFT wraps a layer, and old versions wrote the layer's bias under its name without the wrapper.
    """
    owner, _, leaf = key.rpartition(".")
    wrapped = f"{owner}.base_layer.{leaf}"
    return wrapped if key not in parameters and wrapped in parameters else key


def _other_classes(tensors: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> bool:
    """Return whether a file's head is like the model's, but for the number of classes.

    Other differences of shape, or a weight and a bias that disagree, mean a damaged file.
    """
    rows: dict[str, set[int]] = {}
    changed = False
    for key, parameter in head.items():
        if key not in tensors:
            continue
        same_size = tensors[key].dim() == parameter.dim()
        if not same_size or tensors[key].shape[1:] != parameter.shape[1:]:
            return False
        rows.setdefault(key.rpartition(".")[0], set()).add(len(tensors[key]))
        changed |= len(tensors[key]) != len(parameter)
    return changed and all(len(numbers) == 1 for numbers in rows.values())


def _check(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other shapes, and two values for one tied parameter."""
    seen: dict[int, str] = {}
    for key, target in targets.items():
        if tensors[key].shape != target.shape:
            raise ValueError(
                f"{key} has shape {tuple(tensors[key].shape)}, the model needs "
                f"{tuple(target.shape)}"
            )
        first = seen.setdefault(id(target), key)
        if not torch.equal(tensors[first], tensors[key]):
            raise ValueError(f"{first} and {key} are tied in the model, and differ in the file")


def _refuse_other_backbone(
    tensors: Mapping[str, Tensor], whole: Mapping[str, Tensor], head: Collection[str]
) -> None:
    """Refuse frozen weights, such as saved embeddings, that are not those of the backbone."""
    for key, parameter in whole.items():
        trains = key in head or parameter.requires_grad
        # compared in the dtype of the file, which may be a lower one
        if not trains and not torch.equal(parameter.to(tensors[key]), tensors[key]):
            raise ValueError(f"it holds {key} of another backbone: load that one with model=")


def _load_layers(
    model: nn.Module, tuned: Mapping[str, Tensor], name: str, whole: Collection[str]
) -> None:
    """Load the tensors of PEFT's layers; each trained parameter must be in the file."""
    from peft.utils.save_and_load import set_peft_model_state_dict

    config = model.peft_config[name]  # type: ignore[index]
    if hasattr(config, "save_projection"):
        config.save_projection = False  # the shared tensors are copied by `fill`
    result = set_peft_model_state_dict(model, dict(tuned), adapter_name=name)
    if result.unexpected_keys:
        raise ValueError(f"the model has no {result.unexpected_keys[0]}")
    parameters = dict(model.named_parameters())
    lacking = [
        key
        for key in result.missing_keys
        if key in parameters and parameters[key].requires_grad and key not in whole
    ]
    if lacking:
        raise ValueError(f"it lacks {lacking[0]}")
