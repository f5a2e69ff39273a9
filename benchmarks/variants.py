"""The compared adapters: those of rlora, those of PEFT, and NOLA as its authors' code does it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.naive_nola import wrap_layers
from benchmarks.settings import Ranks
from rlora.adapters import Method, inject
from rlora.adapters.head import Head
from rlora.adapters.lora import LoRA
from rlora.adapters.nola import NOLA
from rlora.adapters.randlora import RandLoRA
from rlora.adapters.rlora import RLoRA
from rlora.adapters.targets import find_targets, roles_of
from rlora.adapters.vera import VeRA

LIMIT = "limit"
REDRAW = "nola (redraw)"
KEPT = "randlora (kept)"
PEFT = "peft "  # prefix of the names of PEFT's adapters
ALPHA = 16.0


@dataclass(frozen=True)
class Variant:
    """One way to make a model train few parameters.

    Args:
        name: Name in the results.
        put_in: Injects it into a model in place, given the names of the adapted modules and of the
            other trainable parameters. Returns the model to call.
    """

    name: str
    put_in: Callable[[nn.Module, Sequence[str], Sequence[str]], nn.Module]


def adapted_modules(model: nn.Module, selection: str | Sequence[str]) -> list[str]:
    """Return the full names of the layers that a selection of targets matches."""
    return list(
        dict.fromkeys(target.module for target in find_targets(model, selection, roles_of(model)))
    )


def our_methods(ranks: Ranks, modules: Sequence[str]) -> dict[str, Method]:
    """Return the methods of rlora by name."""
    return {
        "lora": LoRA(rank=ranks.lora, alpha=ALPHA, targets=modules),
        "rlora": RLoRA(rank=ranks.rlora, alpha=ALPHA, targets=modules),
        "nola": NOLA(rank=ranks.nola, alpha=ALPHA, targets=modules, num_bases=ranks.num_bases),
        "vera": VeRA(rank=ranks.vera, alpha=float(ranks.vera), targets=modules),
        "randlora": _randlora(ranks, modules),
    }


def _randlora(ranks: Ranks, modules: Sequence[str]) -> RandLoRA:
    return RandLoRA(rank=ranks.randlora, alpha=ALPHA, targets=modules)


def peft_configs(
    ranks: Ranks, modules: Sequence[str], *, projection: bool = True
) -> dict[str, Any]:
    """Return PEFT's configs of the same adapters by name.

    Args:
        ranks: Ranks of the adapters.
        modules: Names of the adapted modules.
        projection: Whether their files contain the random matrices.
    """
    import peft

    names = list(modules)
    return {
        "peft lora": peft.LoraConfig(r=ranks.lora, lora_alpha=int(ALPHA), target_modules=names),
        "peft vera": peft.VeraConfig(
            r=ranks.vera, target_modules=names, save_projection=projection
        ),
        "peft randlora": peft.RandLoraConfig(
            r=ranks.randlora,
            randlora_alpha=int(ALPHA),
            target_modules=names,
            save_projection=projection,
        ),
    }


def variants(ranks: Ranks) -> list[Variant]:
    """Return all variants, the limit first.

    The limit trains only the parameters that every variant trains: the head and one bias.
    """
    result = [Variant(LIMIT, _ours(lambda modules: Head()))]
    result += [
        Variant(name, _ours(partial(_our_method, name, ranks))) for name in our_methods(ranks, ())
    ]
    result += [
        Variant(KEPT, _ours(lambda modules: replace(_randlora(ranks, modules), keep_delta=True)))
    ]
    result += [
        Variant(name, _peft(partial(_peft_config, name, ranks))) for name in peft_configs(ranks, ())
    ]
    return [*result, Variant(REDRAW, _redraw(ranks))]


def _our_method(name: str, ranks: Ranks, modules: Sequence[str]) -> Method:
    return our_methods(ranks, modules)[name]


def _peft_config(name: str, ranks: Ranks, modules: Sequence[str]) -> Any:
    return peft_configs(ranks, modules)[name]


def parameters_beginning_with(model: nn.Module, prefixes: Sequence[str]) -> list[str]:
    """Return the names of the parameters with one of the prefixes.

    Raises:
        ValueError: A prefix matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    if unknown := [
        prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)
    ]:
        raise ValueError(
            f"prefixes={', '.join(unknown)} is invalid: expected prefixes of parameter names"
        )
    return [name for name in names if name.startswith(tuple(prefixes))]


def _ours(
    method: Callable[[Sequence[str]], Method],
) -> Callable[[nn.Module, Sequence[str], Sequence[str]], nn.Module]:
    def put_in(model: nn.Module, modules: Sequence[str], head: Sequence[str]) -> nn.Module:
        inject(model, method(modules), head=head)
        return model

    return put_in


def _peft(
    config: Callable[[Sequence[str]], Any],
) -> Callable[[nn.Module, Sequence[str], Sequence[str]], nn.Module]:
    def put_in(model: nn.Module, modules: Sequence[str], head: Sequence[str]) -> nn.Module:
        import peft

        owners = _owners(model, head)
        wrapped = peft.get_peft_model(model, config(modules)).base_model.model
        _train(owners)
        return wrapped

    return put_in


def _redraw(ranks: Ranks) -> Callable[[nn.Module, Sequence[str], Sequence[str]], nn.Module]:
    def put_in(model: nn.Module, modules: Sequence[str], head: Sequence[str]) -> nn.Module:
        owners = _owners(model, head)
        wrap_layers(model, modules, ranks.nola, ranks.num_bases, ALPHA / ranks.nola)
        _train(owners)
        return model

    return put_in


def _owners(model: nn.Module, names: Sequence[str]) -> list[tuple[nn.Module, str]]:
    return [
        (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names
    ]


def _train(owners: Sequence[tuple[nn.Module, str]]) -> None:
    """Make parameters trainable, with all parameters of their module in float32.

    `inject` does the same with a head.
    """
    for module, name in owners:
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(torch.float32)
        module.get_parameter(name).requires_grad_(True)
