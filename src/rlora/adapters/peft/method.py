"""Any tuner of the installed PEFT that goes to linear layers, trained and compared like an adapter of this house."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rlora.adapters.adapter_set import AdapterSet
from rlora.adapters.base import Adapter, Method, Site, Targets
from rlora.adapters.linear import is_quantized
from rlora.adapters.peft import files
from rlora.adapters.targets import find_targets, roles_of
from rlora.ops.philox import RandomSource

NAME = "default"  # what PEFT calls an adapter that nobody named
SHARED = "peft_shared"


@dataclass(frozen=True)
class Peft(Method):
    """A method of PEFT by its config; its random structure is drawn by PEFT under the run's seed.

    What trains is what PEFT says. Source: huggingface/peft, the installed version.

    Args:
        config: `peft_type`, such as "LORA" or "FOURIERFT", and options of that type's config.
        targets: Which layers are adapted, see `Method`; whole layers, for PEFT knows no row blocks.
        path: A directory that PEFT has written; its config takes the place of `config` and `targets`, its weights
            those of the start.

    Raises:
        ValueError: a type or an option that PEFT does not know, or a directory that cannot be read.
    """

    config: Mapping[str, Any] = field(default_factory=lambda: {"peft_type": "LORA"})
    targets: Targets = "all-linear"
    path: str | None = None

    def __post_init__(self) -> None:
        made_by_us = {"target_modules", "modules_to_save", "task_type", "inference_mode"} & set(
            self.config
        )
        if made_by_us:
            raise ValueError(
                f"adapter.config.{min(made_by_us)} is not set here: adapter.targets chooses layers, the task its head"
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
        """The config of PEFT for these modules.

        Raises:
            ValueError: see the class.
        """
        from peft import get_peft_config
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        kind = str(self.config.get("peft_type"))
        known = sorted(
            kind.value
            for kind, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()
            if for_linear_layers(made)
        )
        if kind not in known:
            raise ValueError(
                f"adapter.config.peft_type={kind} is none that goes to linear layers: choose one of {', '.join(known)}"
            )
        try:
            return get_peft_config({**self.config, "target_modules": list(modules)})
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"adapter.config does not fit {kind}: {' '.join(str(error).split())}"
            ) from error

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """PEFT puts its own layers in: see `inject`."""
        raise RuntimeError("layers of PEFT are no adapters of this house")

    def inject(self, model: nn.Module, *, seed: int, head: Iterable[str]) -> "PeftSet":
        """Freeze a model and let PEFT put its layers into it, in place.

        Raises:
            ValueError: PEFT refuses a layer or an option, or a target is a part of a layer.
        """
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

        original = dict(model.named_parameters())
        foreign = files.read(Path(self.path)) if self.path is not None else None
        config = foreign.config if foreign else self.peft_config(self._modules(model))
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
        shared = nn.ModuleDict(
            {name: child for name, child in tuner.named_children() if name != "model"}
        )
        if any(True for _ in shared.parameters()):
            model.add_module(SHARED, shared)
        if foreign:
            files.fill(model, foreign, NAME)
        return _set_of(self, model, seed, original, list(head))

    def _modules(self, model: nn.Module) -> list[str]:
        found = find_targets(model, self.targets, roles_of(model))
        if blocks := [target for target in found if target.block is not None]:
            raise ValueError(
                f"adapter.targets={self.targets} means a part of {blocks[0].module}, and PEFT adapts whole layers: "
                f"name it {blocks[0].module.rpartition('.')[2]}, or use all-linear"
            )
        return [target.module for target in found]


def _set_of(
    method: Peft, model: nn.Module, seed: int, original: dict[str, nn.Parameter], head: list[str]
) -> "PeftSet":
    own = {id(parameter) for parameter in original.values()}
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad and id(p) not in own}
    for name in head:
        original[name].requires_grad_(True)
    for parameter in (*trained.values(), *(original[name] for name in head)):
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return PeftSet(
        model=model,
        method=method,
        seed=seed,
        digest=_structure_digest(model, own),
        adapters={},
        wrappers=cast(Any, [_Layer(module) for module in _tuner_layers(model)]),
        backbone={name: original[name] for name in original if name not in set(head)},
        trained_in_backbone=[],
        head={name: original[name] for name in head},
        trained={_stable(name): parameter for name, parameter in trained.items()},
    )


@dataclass(eq=False, kw_only=True)
class PeftSet(AdapterSet):
    """Layers of PEFT in a model.

    Args:
        trained: What PEFT trains, by names without the adapter's.
    """

    trained: Mapping[str, nn.Parameter]
    _mergeable: str | bool | None = field(
        default=False, init=False, repr=False
    )  # False: not tried yet

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """What PEFT trains."""
        return dict(self.trained)

    def mergeable(self) -> str | None:
        """Why W cannot hold what the tuner makes of it, or None where it can; tried on one layer."""
        if self._mergeable is False:
            self._mergeable = super().mergeable() or self._refusal()
        return cast(str | None, self._mergeable)

    def _refusal(self) -> str | None:
        try:
            self.wrappers[0].merge()
        except Exception as error:  # each tuner has its own
            return f"PEFT cannot merge this tuner ({' '.join(str(error).split()) or type(error).__name__})"
        self.wrappers[0].unmerge()
        return None

    def unwrapped(self) -> nn.Module:
        """The model with the sums in its layers and PEFT's layers gone; see the base class."""
        self.merge()
        for name, module in list(self.model.named_modules()):
            if _is_tuner_layer(module):
                self.model.set_submodule(name, module.get_base_layer())
        if hasattr(self.model, SHARED):
            delattr(self.model, SHARED)
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config
        return self.model


def for_linear_layers(config: Any) -> bool:
    """Whether a config (or its class) of PEFT names modules to adapt: those of prompts do not."""
    fields = getattr(config, "__dataclass_fields__", {})
    return "target_modules" in fields and getattr(config, "is_prompt_learning", False) is not True


class _Layer:
    """One of PEFT's layers, merged so that the very W comes back: PEFT itself subtracts what it added."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self._aside: dict[str, Tensor] = {}

    @property
    def base(self) -> Any:
        return self.module.get_base_layer()

    @property
    def weight(self) -> Tensor:
        return cast(Tensor, self.base.weight)

    @property
    def merged(self) -> bool:
        return bool(self._aside)

    @torch.no_grad()
    def merge(self) -> None:
        """Put the sum in the place of W, and W (and the bias) aside."""
        if self.merged:
            raise RuntimeError("the layer is merged already")
        if is_quantized(self.weight):
            raise RuntimeError("a frozen weight is quantized and cannot hold the sum")
        aside = {name: p.data for name, p in self.base.named_parameters(recurse=False)}
        for name, value in aside.items():
            getattr(self.base, name).data = value.clone()
        try:
            self.module.merge()
        except BaseException:
            self._put_back(aside)
            raise
        self._aside = aside

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put W back, bit for bit."""
        if not self.merged:
            raise RuntimeError("the layer is not merged")
        self._put_back(self._aside)
        self._aside = {}

    def _put_back(self, aside: Mapping[str, Tensor]) -> None:
        for name, value in aside.items():
            getattr(self.base, name).data = value
        self.module.merged_adapters.clear()


def _is_tuner_layer(module: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def _tuner_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if _is_tuner_layer(module)]


def _stable(name: str) -> str:
    """A parameter's name without PEFT's name of the adapter."""
    return ".".join(part for part in name.split(".") if part != NAME)


def _structure_digest(model: nn.Module, own: set[int]) -> str:
    """SHA-256 over what PEFT drew and freezes; "" on the meta device."""
    digest = hashlib.sha256()
    layers = _tuner_layers(model)
    frozen: dict[int, tuple[str, Tensor]] = {}
    for number, layer in enumerate(layers):
        base = {
            id(tensor)
            for tensor in (*layer.get_base_layer().parameters(), *layer.get_base_layer().buffers())
        }
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            if not tensor.requires_grad and id(tensor) not in base | own:
                frozen.setdefault(id(tensor), (f"{number}/{name}", tensor))
    for name, tensor in frozen.values():
        if tensor.is_meta:
            return ""
        digest.update(f"{name}{tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
