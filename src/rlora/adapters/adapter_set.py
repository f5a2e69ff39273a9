"""The adapters of one model together: what trains, what is saved, merging, and how many parameters it takes."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlora.adapters.base import Adapter, Method, Regenerated
from rlora.adapters.linear import AdaptedLinear, is_quantized


@dataclass(frozen=True)
class ParameterReport:
    """How many numbers train, and in how large a model.

    Args:
        adapter: Trained by the method (updates, or backbone parameters trained in place).
        head: Trained by the task beside it.
        backbone: The backbone without head and updates, trained or frozen.
    """

    adapter: int
    head: int
    backbone: int

    @property
    def percent(self) -> float:
        """The adapter's share of the backbone in percent."""
        return 100.0 * self.adapter / self.backbone


@dataclass(eq=False)
class AdapterSet:
    """What `inject` gives back: a handle on all that was put into, and trains in, one model.

    Args:
        model: The adapted model.
        method: The method with its options.
        seed: Seed of the random structure.
        digest: Digest of the random structure, "" on the meta device.
        adapters: Updates by the stable name of their site.
        wrappers: The layers that hold them.
        backbone: The backbone's own parameters by their original names, the head's excepted.
        trained_in_backbone: Which of them the method trains in place.
        head: The parameters that train in full beside the adapter.
        fingerprint: Of the backbone as it was, see `rlora.ops.fingerprint`; "" where that is quantized or meta.
    """

    model: nn.Module
    method: Method
    seed: int
    digest: str
    adapters: Mapping[str, Adapter]
    wrappers: list[AdaptedLinear]
    backbone: Mapping[str, nn.Parameter]
    trained_in_backbone: list[str]
    head: Mapping[str, nn.Parameter]
    fingerprint: str = ""

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """What the method trains, by stable name."""
        updates = {
            f"{site}.{name}": parameter
            for site, adapter in self.adapters.items()
            for name, parameter in adapter.named_parameters()
        }
        return {**updates, **{name: self.backbone[name] for name in self.trained_in_backbone}}

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """What trains beside the adapter, by name."""
        return dict(self.head)

    def report(self) -> ParameterReport:
        """Count the parameters."""

        def count(parameters: Iterable[Tensor]) -> int:
            return sum(parameter.numel() for parameter in parameters)

        return ParameterReport(
            adapter=count(self.adapter_parameters().values()),
            head=count(self.head.values()),
            backbone=count(self.backbone.values()),
        )

    def shares_weights(self) -> bool:
        """Whether some adapted layer's W is another module's too, such as an embedding's."""
        owners = Counter(
            id(parameter) for _, parameter in self.model.named_parameters(remove_duplicate=False)
        )
        return any(owners[id(wrapper.weight)] > 1 for wrapper in self.wrappers)

    def mergeable(self) -> str | None:
        """Why W cannot hold W + dW, or None where it can."""
        if self.shares_weights():
            return "an adapted layer shares its weight with another, which needs it as it is"
        if any(is_quantized(wrapper.weight) for wrapper in self.wrappers):
            return "a frozen weight is quantized and cannot hold the sum"
        return None

    def merge(self) -> None:
        """Fold every dW into its W; the originals are set aside. On an error nothing is merged.

        Raises:
            RuntimeError: they are merged already, or some W cannot hold the sum; see `mergeable`.
        """
        if any(wrapper.merged for wrapper in self.wrappers):
            raise RuntimeError("the adapters are merged already")
        if reason := self.mergeable():
            raise RuntimeError(f"{reason}: run unmerged")
        try:
            for wrapper in self.wrappers:
                wrapper.merge()
        except BaseException:
            for wrapper in self.wrappers:
                if wrapper.merged:
                    wrapper.unmerge()
            raise

    def unmerge(self) -> None:
        """Bring the originals back, bit for bit."""
        for wrapper in self.wrappers:
            wrapper.unmerge()

    def unwrapped(self) -> nn.Module:
        """The model with W + dW in its layers and the wrappers gone: no adapter any more, and no way back.

        Raises:
            RuntimeError: as `merge`.
        """
        self.merge()
        wrappers = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, AdaptedLinear)
        }
        for name, wrapper in wrappers.items():
            self.model.set_submodule(name, wrapper.base)
        return self.model

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Run the model with merged weights, without any adapter cost, and restore it afterwards."""
        self.merge()
        try:
            yield
        finally:
            self.unmerge()


def structure_digest(adapters: Iterable[Adapter]) -> str:
    """SHA-256 over every tensor that comes back from the seed, shared ones once; "" on the meta device.

    Taken before any cast or move: two machines that agree on it regenerate the same structure.
    """
    digest = hashlib.sha256()
    seen: set[int] = set()
    for adapter in adapters:
        for path, module in adapter.named_modules():
            if not isinstance(module, Regenerated) or id(module) in seen:
                continue
            seen.add(id(module))
            for name in module.regenerated:
                tensor = module.get_buffer(name)
                if tensor.is_meta:
                    return ""
                kind = "<i8" if tensor.dtype == torch.int64 else "<f4"
                digest.update(
                    f"{adapter.site.name}/{path}/{name}/{kind}{tuple(tensor.shape)};".encode()
                )
                digest.update(tensor.contiguous().numpy().astype(kind, copy=False).tobytes())
    return digest.hexdigest()
