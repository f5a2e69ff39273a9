"""Put a method's updates into a model: `inject` is the only way in."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from rlora.adapters.adapter_set import AdapterSet, structure_digest
from rlora.adapters.base import Adapter, Method, Site
from rlora.adapters.linear import AdaptedLinear, is_quantized, linear_shape
from rlora.adapters.targets import Target, find_targets, is_linear, roles_of
from rlora.ops.fingerprint import fingerprint
from rlora.ops.philox import RandomSource

MARK = "_carries_adapters"


def inject(
    model: nn.Module,
    method: Method,
    *,
    seed: int = 0,
    head: Iterable[str] = (),
) -> AdapterSet:
    """Freeze a model and put the method's updates into it, in place.

    After it exactly these train: the updates' parameters, the backbone parameters the method itself trains (`full`,
    `bitfit`), and the head; all of it in float32 or better.

    Args:
        model: A transformers model, or any module whose blocks lie in an nn.ModuleList.
        method: The method with its options, for instance `LoRA(rank=8)`.
        seed: Seed of all random structure and start values; the global generators are not touched.
        head: Names of the parameters that train in full beside the adapter.

    Returns:
        The adapters together: parameters, merging, state, report.

    Raises:
        ValueError: a target matches nothing, an option does not fit a layer, or what trains is quantized.
        RuntimeError: the model carries adapters already.
    """
    if getattr(model, MARK, False):
        raise RuntimeError("the model carries adapters already: load the backbone anew")
    original = dict(model.named_parameters())
    head_names = list(head)
    if unknown := [name for name in head_names if name not in original]:
        raise ValueError(
            f"head names {', '.join(unknown)}, which the model has not: name its parameters in full"
        )
    mark = _fingerprint(model, head_names)
    if (own := method.inject(model, seed=seed, head=head_names)) is not None:
        setattr(model, MARK, True)
        own.fingerprint = mark
        return cast(AdapterSet, own)
    trained = [name for name in method.trained_in_backbone(model) if name not in set(head_names)]
    if quantized := [name for name in (*trained, *head_names) if is_quantized(original[name])]:
        raise ValueError(
            f"{quantized[0]} is to be trained, but it is quantized: set model.quantize=null, or choose an adapter that "
            "leaves the backbone frozen"
        )
    targets = [] if method.targets is None else find_targets(model, method.targets, roles_of(model))
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    sites = [site_of(model, target, prefix) for target in targets]
    adapters = method.build(sites, RandomSource(seed, device=_meta_or_cpu(model)))
    digest = structure_digest(adapters)
    setattr(model, MARK, True)
    model.requires_grad_(False)
    for name in (*trained, *head_names):
        _train(model, name, original[name])
    wrappers = _wrap(model, targets, adapters)
    return AdapterSet(
        model=model,
        method=method,
        seed=seed,
        digest=digest,
        adapters={site.name: adapter for site, adapter in zip(sites, adapters, strict=True)},
        wrappers=wrappers,
        backbone={name: original[name] for name in original if name not in set(head_names)},
        trained_in_backbone=trained,
        head={name: original[name] for name in head_names},
        fingerprint=mark,
    )


def _fingerprint(model: nn.Module, head: list[str]) -> str:
    known = not any(
        parameter.is_meta or is_quantized(parameter) for parameter in model.parameters()
    )
    return fingerprint(model, head) if known else ""


def _train(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Let a parameter train, in float32: small steps vanish in half precision, where the model runs under autocast."""
    parameter.requires_grad_(True)
    owner = model.get_submodule(name.rpartition(".")[0])
    # a linear layer under autocast takes weight and bias of any dtype, a normalization layer wants one for both
    for member in [parameter] if is_linear(owner) else owner.parameters(recurse=False):
        member.data = member.data.to(torch.promote_types(member.dtype, torch.float32))


def _meta_or_cpu(model: nn.Module) -> str:
    parameter = next(model.parameters(), None)
    return "meta" if parameter is not None and parameter.device.type == "meta" else "cpu"


def rows_of(module: nn.Module, target: Target) -> tuple[int, int]:
    """The rows [start, stop) of a layer's output that a target means."""
    out_features = linear_shape(module)[0]
    index, count = target.block or (0, 1)
    if out_features % count:
        raise ValueError(
            f"{target.module} has {out_features} rows, which do not split into {count} equal blocks"
        )
    size = out_features // count
    return index * size, (index + 1) * size


def site_of(model: nn.Module, target: Target, prefix: str) -> Site:
    """Where a target's update goes, named independently of the head around the backbone."""
    module = model.get_submodule(target.module)
    start, stop = rows_of(module, target)
    name = target.module.removeprefix(prefix) + (f"[{target.label}]" if target.label else "")
    return Site(name, stop - start, linear_shape(module)[1])


def _wrap(model: nn.Module, targets: list[Target], adapters: list[Adapter]) -> list[AdaptedLinear]:
    by_module: dict[str, list[tuple[Target, Adapter]]] = {}
    for target, adapter in zip(targets, adapters, strict=True):
        by_module.setdefault(target.module, []).append((target, adapter))
    wrappers = []
    for name, members in by_module.items():
        base = model.get_submodule(name)
        updates = [(*rows_of(base, target), adapter) for target, adapter in members]
        for _, _, adapter in updates:
            adapter.to(cast(Tensor, base.weight).device)
        wrapper = AdaptedLinear(base, updates)
        wrapper.train(base.training)
        model.set_submodule(name, wrapper)
        wrappers.append(wrapper)
    return wrappers
