"""Modules that train in full with a tuner of PEFT: its option `modules_to_save`."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from rlora.adapters.inject import refuse_quantized


def modules_named(model: nn.Module, endings: Sequence[str]) -> list[str]:
    """Return the modules that `modules_to_save` selects, by PEFT's rule: the end of the name."""
    return [
        name
        for name, _ in model.named_modules(remove_duplicate=False)
        if any(name.endswith(ending) for ending in endings)
    ]


def whole_modules(model: nn.Module, values: Mapping[str, Any], head: Sequence[str]) -> list[str]:
    """Return the modules of `modules_to_save` without the head's, untied from other modules.

    PEFT trains a copy of each module. So a tied weight changes in the named module alone, unless
    `ensure_weight_tying` is set.
    """
    found = modules_named(model, values.get("modules_to_save") or [])
    owners = {name.rpartition(".")[0] for name in head}
    names = [
        name
        for name in found
        if not any(owner == name or owner.startswith(f"{name}.") for owner in owners)
        and next(model.get_submodule(name).parameters(), None) is not None
    ]
    refuse_quantized(parameters_of(model, names))
    if not values.get("ensure_weight_tying"):
        for name in names:
            _untie(model, name)
    return names


def _untie(model: nn.Module, name: str) -> None:
    """Give a module its own copy of the parameters that it shares with modules elsewhere."""
    elsewhere = {
        id(parameter)
        for other, parameter in model.named_parameters(remove_duplicate=False)
        if not other.startswith(f"{name}.")
    }
    for path, parameter in list(model.get_submodule(name).named_parameters()):
        if id(parameter) in elsewhere:
            owner_path, _, leaf = f"{name}.{path}".rpartition(".")
            copy = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            setattr(model.get_submodule(owner_path), leaf, copy)
            if hasattr(model, "config"):
                # else saving would drop one of the two
                model.config.tie_word_embeddings = False  # type: ignore[union-attr]


def parameters_of(model: nn.Module, modules: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the parameters of some modules by name."""
    return {
        f"{module}.{name}": parameter
        for module in modules
        for name, parameter in model.get_submodule(module).named_parameters()
    }
