"""The tensors of one method's updates together: trained, shared, and the digest of the rest."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from rlora.adapters.base import Adapter
from rlora.adapters.declared import DeclaredTensors, declared_modules


def roots_of(
    adapters: Mapping[str, Adapter], shared: DeclaredTensors | None
) -> list[tuple[str, nn.Module]]:
    """Return the modules that hold a method's tensors, with the prefix of the tensors' names."""
    return [*adapters.items(), *([] if shared is None else [("shared", shared)])]


def trained_tensors(
    adapters: Mapping[str, Adapter], shared: DeclaredTensors | None
) -> dict[str, nn.Parameter]:
    """Return the parameters of updates and of the model-level module, by stable name.

    Raises:
        RuntimeError: updates hold one parameter together, which would then count several times.
    """
    tensors = {
        f"{root_name}.{name}": parameter
        for root_name, root in roots_of(adapters, shared)
        for name, parameter in root.named_parameters()
    }
    if len({id(parameter) for parameter in tensors.values()}) < len(tensors):
        raise RuntimeError(
            "several updates hold the same trained parameter: pass its module to Adapter.share"
        )
    return tensors


def shared_module(adapters: Iterable[Adapter]) -> DeclaredTensors | None:
    """Return the model-level module that the updates of one method use; None if they use none.

    Raises:
        RuntimeError: the updates use different modules.
    """
    modules = {id(adapter.shared): adapter.shared for adapter in adapters}
    if len(modules) > 1:
        raise RuntimeError("all updates of a model must share one model-level module")
    return next(iter(modules.values()), None)


def structure_digest(adapters: Mapping[str, Adapter], shared: DeclaredTensors | None = None) -> str:
    """Return SHA-256 over the tensors regenerated from the seed; "" on the meta device.

    Shared tensors count once. Taken before any cast or move: two machines that agree on it
    regenerate the same structure.
    """
    digest = hashlib.sha256()
    for root_name, path, module in declared_modules(roots_of(adapters, shared)):
        for name in module.regenerated:
            tensor = module.get_buffer(name)
            if tensor.is_meta:
                return ""
            # one byte order and two dtypes, so that the digest is the same on every machine
            kind = "<i8" if tensor.dtype == torch.int64 else "<f4"
            digest.update(f"{root_name}/{path}/{name}/{kind}{tuple(tensor.shape)};".encode())
            digest.update(tensor.contiguous().numpy().astype(kind, copy=False).tobytes())
    return digest.hexdigest()
