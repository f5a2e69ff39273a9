"""Layers of PEFT in a model, behind the interface of `AdapterSet`."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from rlora.adapters.adapter_set import AdapterSet
from rlora.adapters.saving import PEFT_SHARED
from rlora.ops.linear_layers import is_quantized

NAME = "default"  # PEFT's name of an unnamed adapter


class PeftLayer:
    """One of PEFT's layers, merged so that W comes back bit for bit.

    PEFT itself subtracts what it added, which rounds.

    Args:
        module: A `BaseTunerLayer`.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self._set_aside: dict[str, Tensor] = {}

    @property
    def base(self) -> nn.Module:
        """The layer without PEFT's wrapper."""
        return cast(nn.Module, self.module.get_base_layer())

    @property
    def weight(self) -> Tensor:
        """The base's weight."""
        return cast(Tensor, self.base.weight)

    @property
    def merged(self) -> bool:
        """Whether the base currently holds the merged weight."""
        return bool(self._set_aside)

    @torch.no_grad()
    def merge(self) -> None:
        """Replace W by the merged weight, and set W (and the bias) aside.

        Raises:
            RuntimeError: the layer is merged already, or its weight is quantized.
        """
        if self.merged:
            raise RuntimeError("the layer is merged already")
        if is_quantized(self.weight):
            raise RuntimeError("a frozen weight is quantized and cannot hold the sum")
        originals = {name: p.data for name, p in self.base.named_parameters(recurse=False)}
        for name, value in originals.items():
            # PEFT adds in place: it gets a copy, and the original stays untouched
            self.base.get_parameter(name).data = value.clone()
        try:
            self.module.merge()
        except BaseException:
            self._restore(originals)
            raise
        self._set_aside = originals

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the original tensors back.

        Raises:
            RuntimeError: the layer is not merged.
        """
        if not self.merged:
            raise RuntimeError("the layer is not merged")
        self._restore(self._set_aside)
        self._set_aside = {}

    def _restore(self, originals: Mapping[str, Tensor]) -> None:
        for name, value in originals.items():
            parameter = self.base.get_parameter(name)
            parameter.data = value.to(parameter)  # the model may have been moved or cast meanwhile
        self.module.merged_adapters.clear()  # else PEFT would skip its own computation


@dataclass(eq=False, kw_only=True)
class PeftAdapterSet(AdapterSet):
    """Layers of PEFT in a model.

    Args:
        tuned: PEFT's layers by module name.
        trained: What PEFT's layers train, by names without the adapter's. PEFT's options `bias` and
            `modules_to_save` train parameters of the backbone in addition, see
            `trained_in_backbone`.
        whole: The modules that `modules_to_save` names, without the head.
    """

    tuned: Mapping[str, PeftLayer]
    trained: Mapping[str, nn.Parameter]
    whole: list[str] = field(default_factory=list)
    # the reason of the last try; False: not tried yet
    _mergeable: str | bool | None = field(default=False, init=False, repr=False)

    @property
    def layers(self) -> Mapping[str, PeftLayer]:
        """PEFT's layers by module name."""
        return self.tuned

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Return what PEFT trains: in its layers, and in the backbone."""
        return {
            **self.trained,
            **{name: self.backbone[name] for name in self.trained_in_backbone},
        }

    def mergeable(self) -> str | None:
        """Return why W cannot hold the tuner's weight, or None; one layer is merged to try it."""
        if self._mergeable is False:
            self._mergeable = super().mergeable() or self._refusal()
        return cast(str | None, self._mergeable)

    def _refusal(self) -> str | None:
        layer = next(iter(self.tuned.values()))
        try:
            layer.merge()
        except Exception as error:  # every tuner raises its own type
            reason = " ".join(str(error).split()) or type(error).__name__
            return f"PEFT cannot merge this tuner ({reason})"
        layer.unmerge()
        return None

    def unwrap(self) -> nn.Module:
        """Return the model with merged weights and without PEFT's layers; this cannot be undone."""
        model = super().unwrap()
        for name in (PEFT_SHARED, "peft_config"):
            if hasattr(model, name):
                delattr(model, name)
        return model


def tuner_layers(model: nn.Module) -> dict[str, Any]:
    """Return PEFT's layers in a model, by module name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {
        name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    }


def structure_digest(model: nn.Module, backbone: set[int]) -> str:
    """Return SHA-256 over what PEFT samples and freezes; "" on the meta device.

    Args:
        model: A model with PEFT's layers.
        backbone: Ids of the backbone's parameters, which are not part of it.
    """
    digest = hashlib.sha256()
    frozen: dict[int, tuple[str, Tensor]] = {}
    for number, layer in enumerate(tuner_layers(model).values()):
        base = layer.get_base_layer()
        known = backbone | {id(tensor) for tensor in (*base.parameters(), *base.buffers())}
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            if not tensor.requires_grad and id(tensor) not in known:
                frozen.setdefault(id(tensor), (f"{number}/{name}", tensor))
    for name, tensor in frozen.values():
        if tensor.is_meta:
            return ""
        digest.update(f"{name}{tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
