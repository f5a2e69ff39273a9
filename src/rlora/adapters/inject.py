"""Put a method's updates into a model: `inject` is the only entry point."""

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from rlora.adapters.adapter_set import AdapterSet, LinearAdapterSet
from rlora.adapters.base import Adapter
from rlora.adapters.declared import Site
from rlora.adapters.linear import AdaptedLinear, FrozenWeight
from rlora.adapters.method import Method
from rlora.adapters.saving import SHARED, refuse_adapted
from rlora.adapters.structure import shared_module, structure_digest
from rlora.adapters.targets import Target, find_targets, roles_of
from rlora.ops.fingerprint import fingerprint_if_known
from rlora.ops.linear_layers import is_linear, is_quantized, linear_shape
from rlora.ops.philox import RandomSource


def inject(
    model: nn.Module,
    method: Method,
    *,
    seed: int = 0,
    head: Iterable[str] = (),
) -> AdapterSet:
    """Freeze a model and put the method's updates into it, in place.

    Afterwards exactly these train, in float32 or better: the updates' parameters, the backbone
    parameters that the method itself trains (`full`, `bitfit`), and the head.

    Args:
        model: A transformers model, or any module whose blocks are the elements of an
            nn.ModuleList.
        method: The method with its options, for instance `LoRA(rank=8)`.
        seed: Seed of all random structure and start values; the global generators are not touched.
        head: Names of the parameters that train in full in addition to the adapter.

    Returns:
        The adapters together: parameters, merging, state, report.

    Raises:
        ValueError: a target matches nothing, an option does not fit a layer, or a parameter to
            train is quantized.
        RuntimeError: the model carries adapters already.
    """
    refuse_adapted(model)
    original = dict(model.named_parameters())
    head_names = list(head)
    if unknown := [name for name in head_names if name not in original]:
        raise ValueError(
            f"head={', '.join(unknown)} is invalid: expected full names of the model's parameters"
        )
    mark = fingerprint_if_known(model, head_names)
    third_party = method.inject(model, seed=seed, head=head_names, fingerprint=mark)
    if third_party is not None:
        return third_party
    return _inject_updates(model, method, seed, original, head_names, mark)


def _inject_updates(
    model: nn.Module,
    method: Method,
    seed: int,
    original: dict[str, nn.Parameter],
    head: list[str],
    mark: str,
) -> LinearAdapterSet:
    """Build the updates of a method, and put them into the model; see `inject`."""
    trained = [name for name in method.trained_in_backbone(model) if name not in set(head)]
    refuse_quantized({name: original[name] for name in (*trained, *head)})
    # everything that can fail happens before the model changes
    targets = [] if method.targets is None else find_targets(model, method.targets, roles_of(model))
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    sites = [site_of(model, target, prefix) for target in targets]
    updates = method.build(sites, RandomSource(seed, device=_meta_or_cpu(model)))
    adapters = {site.name: update for site, update in zip(sites, updates, strict=True)}
    shared = shared_module(updates)
    digest = structure_digest(adapters, shared)
    model.requires_grad_(False)
    for name in (*trained, *head):
        train_in_float32(model.get_submodule(name.rpartition(".")[0]), original[name])
    adapted = _wrap(model, targets, updates)
    if shared is not None:
        # registered on the model, so that state, optimizer and posterior find its parameters once
        model.add_module(SHARED, shared.to(next(iter(adapted.values())).weight.device))
    return LinearAdapterSet(
        model=model,
        method=method,
        seed=seed,
        digest=digest,
        adapters=adapters,
        adapted=adapted,
        backbone={name: original[name] for name in original if name not in set(head)},
        trained_in_backbone=trained,
        head={name: original[name] for name in head},
        fingerprint=mark,
        shared=shared,
    )


def refuse_quantized(parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse to train quantized parameters.

    Raises:
        ValueError: one of them is quantized.
    """
    if quantized := [name for name, parameter in parameters.items() if is_quantized(parameter)]:
        raise ValueError(
            f"{quantized[0]} is quantized and cannot be trained: set model.quantize=null, or "
            "choose an adapter that leaves the backbone frozen"
        )


def train_in_float32(owner: nn.Module, parameter: nn.Parameter) -> None:
    """Let a module's parameter train in float32; in half precision small steps would vanish."""
    parameter.requires_grad_(True)
    # under autocast a linear layer takes weight and bias of any dtype; a normalization layer needs
    # one dtype for both
    for member in [parameter] if is_linear(owner) else owner.parameters(recurse=False):
        member.data = member.data.to(torch.promote_types(member.dtype, torch.float32))


def _meta_or_cpu(model: nn.Module) -> str:
    parameter = next(model.parameters(), None)
    return "meta" if parameter is not None and parameter.device.type == "meta" else "cpu"


def rows_of(module: nn.Module, target: Target) -> tuple[int, int]:
    """Return the rows [start, stop) of a layer's output that a target selects.

    Raises:
        ValueError: the rows do not split into the target's number of blocks.
    """
    out_features = linear_shape(module)[0]
    index, count = target.block or (0, 1)
    if out_features % count:
        raise ValueError(
            f"{target.module} has {out_features} rows, which do not split into {count} equal blocks"
        )
    size = out_features // count
    return index * size, (index + 1) * size


def site_of(model: nn.Module, target: Target, prefix: str) -> Site:
    """Return the site of a target, named independently of the head around the backbone."""
    module = model.get_submodule(target.module)
    start, stop = rows_of(module, target)
    name = target.module.removeprefix(prefix) + (f"[{target.label}]" if target.label else "")
    return Site(name, stop - start, linear_shape(module)[1], FrozenWeight(module, start, stop))


def _wrap(
    model: nn.Module, targets: list[Target], updates: list[Adapter]
) -> Mapping[str, AdaptedLinear]:
    """Replace the targeted layers by wrappers around them; return the wrappers by module name."""
    by_module: dict[str, list[tuple[Target, Adapter]]] = {}
    for target, update in zip(targets, updates, strict=True):
        by_module.setdefault(target.module, []).append((target, update))
    adapted = {}
    for name, members in by_module.items():
        base = model.get_submodule(name)
        for _, update in members:
            update.to(cast(Tensor, base.weight).device)
        wrapper = AdaptedLinear(
            base, [(*rows_of(base, target), update) for target, update in members]
        )
        wrapper.train(base.training)
        model.set_submodule(name, wrapper)
        adapted[name] = wrapper
    return adapted
