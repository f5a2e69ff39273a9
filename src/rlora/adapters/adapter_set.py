"""The adapters of one model together: what trains, what is saved, merging, and parameter counts.

`AdapterSet` is the interface that training, files and exports use. `LinearAdapterSet` implements it
for the updates of this package, `rlora.adapters.peft.PeftAdapterSet` for the layers of PEFT.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from rlora.adapters import saving
from rlora.adapters.base import Adapter
from rlora.adapters.declared import DeclaredTensors, derived_tensors
from rlora.adapters.linear import AdaptedLinear
from rlora.adapters.method import Method
from rlora.adapters.structure import roots_of, trained_tensors
from rlora.ops.linear_layers import is_quantized


@dataclass(frozen=True)
class ParameterReport:
    """Numbers of trained parameters, and the size of the model.

    Args:
        adapter: Trained by the method: updates, or backbone parameters trained in place.
        head: Trained by the task in addition.
        backbone: The backbone without head and updates, trained or frozen.
    """

    adapter: int
    head: int
    backbone: int

    @property
    def percent(self) -> float:
        """The adapter's share of the backbone in percent."""
        return 100.0 * self.adapter / self.backbone


class MergeableLayer(Protocol):
    """One adapted layer: it can hold the merged weight in place of W, and put W back."""

    @property
    def base(self) -> nn.Module:
        """The layer without its adapter."""

    @property
    def weight(self) -> Tensor:
        """The weight of `base`."""

    @property
    def merged(self) -> bool:
        """Whether `base` currently holds the merged weight."""

    def merge(self) -> None:
        """Replace W by the merged weight."""

    def unmerge(self) -> None:
        """Put W back, bit for bit."""


@dataclass(eq=False, kw_only=True)
class AdapterSet(ABC):
    """What `inject` returns: a handle on everything that was put into one model and trains in it.

    Args:
        model: The adapted model.
        method: The method with its options.
        seed: Seed of the random structure.
        digest: Digest of the random structure; "" on the meta device.
        fingerprint: Of the backbone before injection, see `rlora.ops.fingerprint`; "" if that was
            quantized or meta.
        backbone: The backbone's parameters by their original names, without the head's.
        head: The parameters that train in full in addition to the adapter.
        adapters: Updates by the stable name of their site; empty if the method brings its own
            layers.
        trained_in_backbone: Names of the backbone parameters that the method trains in place.
        starts_with_other_head: Whether the method's start values came with the head of another
            task, which is not in the model.
    """

    model: nn.Module
    method: Method
    seed: int
    digest: str
    fingerprint: str = ""
    backbone: Mapping[str, nn.Parameter]
    head: Mapping[str, nn.Parameter]
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    trained_in_backbone: list[str] = field(default_factory=list)
    starts_with_other_head: bool = False

    def __post_init__(self) -> None:
        saving.mark(self.model)
        if self.layers:
            saving.keep_layers_called(self.model, self.layers)
            saving.save_merged_from_now_on(self)

    @property
    @abstractmethod
    def layers(self) -> Mapping[str, MergeableLayer]:
        """The adapted layers by module name."""

    @abstractmethod
    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Return what the method trains, by stable name."""

    def derived_tensors(self) -> dict[str, Tensor]:
        """Return the tensors derived from W, by stable name; by default none."""
        return {}

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Return what the task trains, by name."""
        return dict(self.head)

    def parameter_groups(self) -> dict[str, dict[str, nn.Parameter]]:
        """Return all that trains: group ("adapter" or "head") to name to parameter."""
        return {"adapter": self.adapter_parameters(), "head": self.head_parameters()}

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the adapter file: trained and derived, without the head's."""
        return {**self.adapter_parameters(), **self.derived_tensors()}

    def report(self) -> ParameterReport:
        """Count the parameters."""

        def count(parameters: Iterable[Tensor]) -> int:
            return sum(parameter.numel() for parameter in parameters)

        return ParameterReport(
            adapter=count(self.adapter_parameters().values()),
            head=count(self.head.values()),
            backbone=count(self.backbone.values()),
        )

    # merging

    @property
    def is_merged(self) -> bool:
        """Whether some layer currently holds its merged weight."""
        return any(layer.merged for layer in self.layers.values())

    def mergeable(self) -> str | None:
        """Return why W cannot hold the merged weight, or None if it can."""
        if self._shares_weights():
            return "an adapted layer shares its weight with another module that needs it unchanged"
        if any(is_quantized(layer.weight) for layer in self.layers.values()):
            return "a frozen weight is quantized and cannot hold the sum"
        if any(
            "weight" not in dict(layer.base.named_parameters()) for layer in self.layers.values()
        ):
            return "an adapted layer computes its weight from other parameters"
        return None

    def _shares_weights(self) -> bool:
        owners = Counter(
            id(parameter) for _, parameter in self.model.named_parameters(remove_duplicate=False)
        )
        return any(owners[id(layer.weight)] > 1 for layer in self.layers.values())

    def merge(self) -> None:
        """Merge every layer; on an error no layer is merged.

        Raises:
            RuntimeError: the layers are merged already, or see `mergeable`.
        """
        if self.is_merged:
            raise RuntimeError("the adapters are merged already")
        if reason := self.mergeable():
            raise RuntimeError(f"{reason}: run unmerged")
        try:
            for layer in self.layers.values():
                layer.merge()
        except BaseException:
            if self.is_merged:
                self.unmerge()
            raise

    def unmerge(self) -> None:
        """Put the original weights back, bit for bit; after an interruption, the remaining ones.

        Raises:
            RuntimeError: no layer is merged.
        """
        merged = [layer for layer in self.layers.values() if layer.merged]
        if self.layers and not merged:
            raise RuntimeError("the adapters are not merged")
        for layer in merged:
            layer.unmerge()

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Run the model with merged weights, without adapter cost, and restore it afterwards."""
        self.merge()
        try:
            yield
        finally:
            self.unmerge()

    def unwrap(self) -> nn.Module:
        """Return the model with merged weights and without adapters, irreversibly.

        Raises:
            RuntimeError: see `merge`.
        """
        self.merge()
        for name, layer in self.layers.items():
            self.model.set_submodule(name, layer.base)
        saving.unmark(self.model)
        return self.model


@dataclass(eq=False, kw_only=True)
class LinearAdapterSet(AdapterSet):
    """Updates of this package in a model.

    Args:
        adapted: The layers that hold the updates, by module name.
        shared: The method's model-level module, registered on the model as `SHARED`; None for most
            methods.
    """

    adapted: Mapping[str, AdaptedLinear]
    shared: DeclaredTensors | None = None

    @property
    def layers(self) -> Mapping[str, AdaptedLinear]:
        """The adapted layers by module name."""
        return self.adapted

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Return what the method trains, by stable name."""
        return {
            **trained_tensors(self.adapters, self.shared),
            **{name: self.backbone[name] for name in self.trained_in_backbone},
        }

    def derived_tensors(self) -> dict[str, Tensor]:
        """Return the tensors derived from W, by stable name."""
        return derived_tensors(roots_of(self.adapters, self.shared))

    def unwrap(self) -> nn.Module:
        """Return the model with W + dW in its layers and without adapters, irreversibly."""
        model = super().unwrap()
        if self.shared is not None:
            delattr(model, saving.SHARED)
        return model
