"""Protection of an adapted model: it is not adapted twice, and `save_pretrained` merges.

The wrappers around layers rename their weights. Written under those names, a checkpoint would come
back with random weights in every adapted layer.
"""

import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from rlora.adapters.linear import AdaptedLinear

if TYPE_CHECKING:
    from rlora.adapters.adapter_set import AdapterSet

MARK = "_carries_adapters"  # attribute of an adapted model
SHARED = "rlora_shared"  # attribute of the model under which its model-level module is registered
PEFT_SHARED = "peft_shared"  # the same for what a tuner's layers share
SAVE = "save_pretrained"
# what PEFT puts around a model, a layer, and a module that it trains in full
PEFT_KINDS = (
    ("peft.peft_model", "PeftModel"),
    ("peft.tuners.tuners_utils", "BaseTunerLayer"),
    ("peft.utils.other", "AuxiliaryTrainingWrapper"),
)
_OMITTED: Any = object()


def refuse_adapted(model: nn.Module) -> None:
    """Refuse a model that carries adapters, of rlora or of PEFT, in some layer.

    Raises:
        RuntimeError: it does.
    """
    if _carries_peft(model):
        raise RuntimeError(
            "the model carries adapters of PEFT: call its merge_and_unload() or unload() first"
        )
    if any(
        isinstance(module, AdaptedLinear) or getattr(module, MARK, False)
        for module in model.modules()
    ):
        raise RuntimeError("the model carries adapters already: load the backbone again")


def _carries_peft(model: nn.Module) -> bool:
    # a model has layers of PEFT only where PEFT was imported, which takes seconds
    kinds = tuple(
        getattr(sys.modules[module], name) for module, name in PEFT_KINDS if module in sys.modules
    )
    return any(isinstance(module, kinds) for module in model.modules())


def mark(model: nn.Module) -> None:
    """Mark a model as adapted."""
    setattr(model, MARK, True)


def unmark(model: nn.Module) -> None:
    """Make a model ordinary again, once it has no adapters."""
    for module in model.modules():
        module.__dict__.pop(MARK, None)
        module.__dict__.pop(SAVE, None)


def keep_layers_called(model: nn.Module, names: Iterable[str]) -> None:
    """Let torch's `TransformerEncoderLayer` call the wrapped layers among its own.

    In evaluation it reads the weights of its layers and calls none of them, unless one has a hook.
    """
    for name in names:
        if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.TransformerEncoderLayer):
            model.get_submodule(name).register_forward_hook(_keep_output)
            for module in model.modules():  # nested tensors are for its fast path only
                if isinstance(module, nn.TransformerEncoder):
                    module.use_nested_tensor = False


def _keep_output(*_: Any) -> None:
    """Change nothing."""


def save_merged_from_now_on(adapters: "AdapterSet") -> None:
    """Let `save_pretrained` of the model and its parts write W + dW under the ordinary names."""
    for module in adapters.model.modules():
        if callable(getattr(module, SAVE, None)):
            # a partial, not a closure: it is copied and pickled together with the model
            setattr(module, SAVE, functools.partial(_save_merged, module, adapters))


def refuse_saving(model: nn.Module, reason: str) -> None:
    """Let `save_pretrained` of the model and its parts raise a RuntimeError with a reason."""
    for module in model.modules():
        if callable(getattr(module, SAVE, None)):
            setattr(module, SAVE, functools.partial(_raise, reason))


def _raise(reason: str, *_: Any, **__: Any) -> None:
    raise RuntimeError(f"save_pretrained is impossible: {reason}")


def _save_merged(
    module: nn.Module,
    adapters: "AdapterSet",
    directory: Any,
    is_main_process: bool = True,
    state_dict: Any = _OMITTED,
    **options: Any,
) -> Any:
    """Write a module as an ordinary checkpoint of transformers, with the updates merged.

    A caller that passes `state_dict=None`, as the Trainer does, reloads its checkpoint into the
    adapted model: the adapter's tensors are written in addition, under their names there.

    Raises:
        RuntimeError: the updates cannot be merged, or the caller passes tensors.
    """
    if state_dict is not _OMITTED and state_dict is not None:
        _raise("the tensors of state_dict have the names of adapted layers; omit state_dict")
    if not adapters.is_merged and (reason := adapters.mergeable()):
        _raise(f"{reason}; save the adapter with rlora.save")
    own = {id(tensor) for tensor in adapters.saved_tensors().values()}
    added = module.state_dict(keep_vars=True) if state_dict is None else {}
    added = {name: tensor.detach() for name, tensor in added.items() if id(tensor) in own}
    merged = contextlib.nullcontext() if adapters.is_merged else adapters.merged()
    bases = {name: layer.base for name, layer in adapters.layers.items()}
    with merged, unwrapped(adapters.model, bases), _without_shared(adapters.model):
        tensors = {**added, **module.state_dict()} if added else None
        return getattr(type(module), SAVE)(
            module, directory, is_main_process, state_dict=tensors, **options
        )


@contextlib.contextmanager
def unwrapped(model: nn.Module, bases: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put the backbone's modules back in place of their wrappers while the block runs."""
    wrappers = {path: model.get_submodule(path) for path in bases}
    for path, base in bases.items():
        model.set_submodule(path, base)
    try:
        yield
    finally:
        for path, wrapper in wrappers.items():
            model.set_submodule(path, wrapper)


@contextlib.contextmanager
def _without_shared(model: nn.Module) -> Iterator[None]:
    """Take the module that the layers share out of the model while the block runs."""
    shared: dict[str, nn.Module] = {
        name: getattr(model, name) for name in (SHARED, PEFT_SHARED) if hasattr(model, name)
    }
    for name in shared:
        delattr(model, name)
    try:
        yield
    finally:
        for name, module in shared.items():
            model.add_module(name, module)
