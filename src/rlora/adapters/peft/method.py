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
from rlora.adapters.method import Method, PeftFiles, Targets
from rlora.adapters.peft import files
from rlora.adapters.peft.adapter_set import (
    NAME,
    PEFT_SHARED,
    PeftAdapterSet,
    PeftLayer,
    structure_digest,
    tuner_layers,
)
from rlora.adapters.targets import find_targets, roles_of
from rlora.ops.philox import RandomSource

SET_BY_RLORA = {"target_modules", "modules_to_save", "task_type", "inference_mode"}


@dataclass(frozen=True)
class Peft(Method):
    """A method of PEFT, given by its config.

    PEFT decides what trains, and samples its random structure under the run's seed. Source:
    huggingface/peft, the installed version.

    Args:
        config: `peft_type`, such as "LORA" or "FOURIERFT", and options of that type's config.
        targets: Which layers are adapted, see `Method`; whole layers, because PEFT has no row
            blocks.
        path: A directory that PEFT has written: its config replaces `config` and `targets`, its
            weights are the start.

    Raises:
        ValueError: a type or an option that PEFT does not know, or a directory that cannot be read.
    """

    config: Mapping[str, Any] = field(default_factory=lambda: {"peft_type": "LORA"})
    targets: Targets = field(default="all-linear", metadata={"affects_weights": False})
    # a start value only: a saved adapter holds what was trained from it
    path: str | None = field(default=None, metadata={"affects_weights": False})

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
        if self.path is None:
            self.peft_config([])

    def peft_config(self, modules: Sequence[str]) -> Any:
        """Return PEFT's config for these modules.

        Raises:
            ValueError: see the class.
        """
        from peft import get_peft_config
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
        try:
            return get_peft_config({**self.config, "target_modules": list(modules)})
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"adapter.config does not fit {peft_type}: {' '.join(str(error).split())}"
            ) from error

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Raise: PEFT builds its own layers, see `inject`."""
        raise RuntimeError("PEFT's layers are not adapters of rlora: use inject")

    def inject(
        self, model: nn.Module, *, seed: int, head: Sequence[str], fingerprint: str
    ) -> AdapterSet:
        """Freeze a model and let PEFT put its layers into it, in place.

        Raises:
            ValueError: PEFT refuses a layer or an option, or a target is a part of a layer.
        """
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

        original = dict(model.named_parameters())
        start = files.read(Path(self.path)) if self.path is not None else None
        config = start.config if start else self.peft_config(self._modules(model))
        if hasattr(config, "fan_in_fan_out"):
            config.fan_in_fan_out = any(
                type(module).__name__ == "Conv1D" for module in model.modules()
            )
        model.requires_grad_(False)
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
        if start:
            files.fill(model, start, NAME)
        return self._set_of(model, seed, original, list(head), fingerprint)

    def _modules(self, model: nn.Module) -> list[str]:
        targets = find_targets(model, self.targets, roles_of(model))
        if blocks := [target for target in targets if target.block is not None]:
            raise ValueError(
                f"adapter.targets={self.targets} means a part of {blocks[0].module}, and PEFT "
                "adapts whole layers: "
                f"name it {blocks[0].module.rpartition('.')[2]}, or use all-linear"
            )
        return [target.module for target in targets]

    def _set_of(
        self,
        model: nn.Module,
        seed: int,
        original: dict[str, nn.Parameter],
        head: list[str],
        fingerprint: str,
    ) -> PeftAdapterSet:
        backbone = {id(parameter) for parameter in original.values()}
        trained = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and id(parameter) not in backbone
        }
        for name in head:
            original[name].requires_grad_(True)
        for parameter in (*trained.values(), *(original[name] for name in head)):
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        return PeftAdapterSet(
            model=model,
            method=self,
            seed=seed,
            digest=structure_digest(model, backbone),
            fingerprint=fingerprint,
            tuned={name: PeftLayer(module) for name, module in tuner_layers(model).items()},
            backbone={name: original[name] for name in original if name not in set(head)},
            head={name: original[name] for name in head},
            trained={_stable(name): parameter for name, parameter in trained.items()},
        )

    def to_peft(self, adapters: AdapterSet) -> PeftFiles:
        """Return what PEFT's layers have trained, as PEFT writes it.

        Raises:
            ValueError: a type whose files may not hold all of it.
        """
        return files.native(adapters.model, adapters.adapter_parameters(), NAME, PEFT_SHARED)


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
