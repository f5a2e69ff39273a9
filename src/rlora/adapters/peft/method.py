"""Any tuner of the installed PEFT for linear layers, trained like an adapter of rlora."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlora.adapters.adapter_set import AdapterSet
from rlora.adapters.base import Adapter
from rlora.adapters.declared import Site
from rlora.adapters.inject import train_in_float32
from rlora.adapters.method import Method, PeftFiles, Targets
from rlora.adapters.peft import files
from rlora.adapters.peft.adapter_set import (
    NAME,
    PeftAdapterSet,
    PeftLayer,
    structure_digest,
    tuner_layers,
)
from rlora.adapters.peft.fill import fill
from rlora.adapters.peft.whole_modules import modules_named, parameters_of, whole_modules
from rlora.adapters.saving import PEFT_SHARED
from rlora.adapters.targets import find_targets, roles_of
from rlora.ops.philox import RandomSource

# of a config on the command line: the run decides these
SET_BY_RLORA = {"target_modules", "task_type", "inference_mode"}


@dataclass(frozen=True)
class Peft(Method):
    """A method of PEFT, given by its config.

    PEFT decides what trains, and samples its random structure under the run's seed. `bias` and
    `modules_to_save` train parameters of the backbone in place, and count as the adapter's; modules
    that the task trains as its head are left to the head. Source: huggingface/peft, the installed
    version.

    Args:
        config: `peft_type`, such as "LORA" or "FOURIERFT", and options of that type's config.
        targets: Which layers are adapted, see `Method`; whole layers, because PEFT has no row
            blocks.
        path: A directory that PEFT has written: its config replaces `config` and `targets`, its
            weights are the start.
        saved: The adapter_config.json of that directory, by default read from `path`. A run keeps
            it in its own config, and needs the directory only once.

    Raises:
        ValueError: a type or an option that PEFT does not know, or a directory that cannot be read.
    """

    config: Mapping[str, Any] = field(default_factory=lambda: {"peft_type": "LORA"})
    targets: Targets = field(default="all-linear", metadata={"affects_weights": False})
    # a start value only: a saved adapter holds what was trained from it
    path: str | Path | None = field(default=None, metadata={"affects_weights": False})
    saved: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if reserved := SET_BY_RLORA & set(self.config):
            raise ValueError(
                f"adapter.config.{min(reserved)} is not set here: adapter.targets chooses layers, "
                "the task its head"
            )
        try:
            import peft  # noqa: F401
        except ImportError:
            raise ValueError(
                "adapter=peft needs the package peft: pip install 'rlora[peft]'"
            ) from None
        if self.path is not None:
            object.__setattr__(self, "path", str(Path(self.path).expanduser()))
            if self.saved is None:
                object.__setattr__(self, "saved", files.read_config(Path(self.path)))
        elif self.saved is None:
            self._values([])

    def portable_options(self) -> dict[str, Any]:
        """Return the config of the directory at `path`, which may be gone later."""
        return {} if self.saved is None else {"saved": dict(self.saved)}

    def _values(self, modules: Sequence[str]) -> dict[str, Any]:
        """Return the entries of PEFT's config: those of a directory, or `config` for the modules.

        Raises:
            ValueError: see the class.
        """
        if self.saved is not None:
            return dict(self.saved)
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        peft_type = str(self.config.get("peft_type"))
        known = sorted(
            known_type.value
            for known_type, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items()
            if for_linear_layers(config_class)
        )
        if peft_type not in known:
            raise ValueError(
                f"adapter.config.peft_type={peft_type} is none that goes to linear layers: choose "
                f"one of {', '.join(known)}"
            )
        values = {**self.config, "target_modules": list(modules)}
        try:
            files.config_object(values)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"adapter.config does not fit {peft_type}: {' '.join(str(error).split())}"
            ) from error
        return values

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Raise: PEFT builds its own layers, see `inject`."""
        raise RuntimeError("PEFT's layers are not adapters of rlora: use inject")

    def inject(
        self, model: nn.Module, *, seed: int, head: Sequence[str], fingerprint: str
    ) -> AdapterSet:
        """Freeze a model and let PEFT put its layers into it, in place.

        Raises:
            ValueError: PEFT refuses a layer or an option, or a target is a part of a layer; the
                model has its own layers again.
        """
        flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        try:
            return self._inject(model, seed, head, fingerprint)
        except BaseException:
            _remove_layers(model)
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
            raise

    def _inject(
        self, model: nn.Module, seed: int, head: Sequence[str], fingerprint: str
    ) -> PeftAdapterSet:
        values = self._values([] if self.saved is not None else self._modules(model))
        config = files.config_object(values)
        if hasattr(config, "fan_in_fan_out"):
            config.fan_in_fan_out = any(
                type(module).__name__ == "Conv1D" for module in model.modules()
            )
        self._check_modules(model)
        whole = whole_modules(model, values, head)
        original = dict(model.named_parameters())
        modes = {id(module): module.training for module in model.modules()}
        model.requires_grad_(False)
        _insert_layers(model, config, seed)
        _follow_mode(model, modes)
        known = {id(parameter) for parameter in original.values()}
        for parameter in parameters_of(model, whole).values():
            parameter.requires_grad_(True)
        same_head = True
        if self.path is not None:
            same_head = fill(model, Path(self.path), NAME, head=head)
        trained = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        in_head = {id(original[name]) for name in head}
        for name, parameter in list(model.named_parameters()):
            if name in trained or id(parameter) in in_head:
                train_in_float32(model.get_submodule(name.rpartition(".")[0]), parameter)
        backbone = {name: original[name] for name in original if name not in set(head)}
        return PeftAdapterSet(
            model=model,
            method=self,
            seed=seed,
            digest=structure_digest(model, known),
            fingerprint=fingerprint,
            tuned={name: PeftLayer(module) for name, module in tuner_layers(model).items()},
            backbone=backbone,
            head={name: original[name] for name in head},
            starts_with_other_head=not same_head,
            trained_in_backbone=[n for n, p in backbone.items() if p.requires_grad],
            trained={_stable(n): p for n, p in trained.items() if id(p) not in known},
            whole=whole,
        )

    def _check_modules(self, model: nn.Module) -> None:
        """Refuse modules to save that are none; a directory's may be heads of other models."""
        for name in self.config.get("modules_to_save") or [] if self.saved is None else []:
            if not modules_named(model, [name]):
                raise ValueError(
                    f"adapter.config.modules_to_save: {name!r} is no module of the backbone; name "
                    "one such as embed_tokens"
                )

    def _modules(self, model: nn.Module) -> list[str]:
        targets = find_targets(model, self.targets, roles_of(model))
        if blocks := [target for target in targets if target.block is not None]:
            raise ValueError(
                f"adapter.targets={self.targets} means a part of {blocks[0].module}, and PEFT "
                "adapts whole layers: "
                f"name it {blocks[0].module.rpartition('.')[2]}, or use all-linear"
            )
        return [target.module for target in targets]

    def to_peft(self, adapters: AdapterSet) -> PeftFiles:
        """Return what PEFT's layers have trained, as PEFT writes it.

        Raises:
            ValueError: a type whose files may not hold all of it.
        """
        assert isinstance(adapters, PeftAdapterSet)
        in_place = {id(adapters.backbone[name]) for name in adapters.trained_in_backbone}
        whole = {
            name: parameter
            for name, parameter in adapters.model.named_parameters(remove_duplicate=False)
            if id(parameter) in in_place
        }
        made = files.native(adapters.model, adapters.trained, whole, NAME, PEFT_SHARED)
        return PeftFiles({**made.config, "modules_to_save": adapters.whole}, made.tensors)


def _insert_layers(model: nn.Module, config: Any, seed: int) -> None:
    """Let PEFT put its layers into a model.

    Raises:
        ValueError: PEFT refuses a layer or an option.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    with _seeded(seed):
        try:
            tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, config, NAME)
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            raise ValueError(
                f"PEFT refuses {config.peft_type.value} here: {' '.join(str(error).split())}"
            ) from error
    # The tuner object itself is dropped. Parameters that it holds for all layers (VB-LoRA's
    # vector bank) move to the model, where state, optimizer and posterior find them.
    shared = nn.ModuleDict(
        {name: child for name, child in tuner.named_children() if name != "model"}
    )
    if any(True for _ in shared.parameters()):
        model.add_module(PEFT_SHARED, shared)


def _remove_layers(model: nn.Module) -> None:
    """Put the layers back that PEFT has wrapped before it failed."""
    for name, layer in tuner_layers(model).items():
        model.set_submodule(name, layer.get_base_layer())
    for name in (PEFT_SHARED, "peft_config"):
        if hasattr(model, name):
            delattr(model, name)


def _follow_mode(model: nn.Module, modes: Mapping[int, bool]) -> None:
    """Put PEFT's new modules in the mode of the layer they wrap: their dropout starts as active."""
    for layer in tuner_layers(model).values():
        mode = modes.get(id(layer.get_base_layer()), model.training)
        for module in layer.modules():
            if id(module) not in modes:
                module.training = mode
    if hasattr(model, PEFT_SHARED):
        getattr(model, PEFT_SHARED).train(model.training)


def for_linear_layers(config: Any) -> bool:
    """Return whether a PEFT config (or its class) names modules to adapt, unlike prompts."""
    fields = getattr(config, "__dataclass_fields__", {})
    return "target_modules" in fields and getattr(config, "is_prompt_learning", False) is not True


def _stable(name: str) -> str:
    """Return a parameter's name without PEFT's name of the adapter."""
    return ".".join(part for part in name.split(".") if part != NAME)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Run PEFT's global draws under a seed, and leave the global generators unchanged."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
