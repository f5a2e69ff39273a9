"""Several trained adapters on one backbone, chosen for a call or for each row of a batch."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rlora.adapters import checkpoint
from rlora.adapters.adapter_set import shared_module
from rlora.adapters.base import Adapter
from rlora.adapters.inject import MARK, rows_of, site_of
from rlora.adapters.linear import AdaptedLinear
from rlora.adapters.method import Method
from rlora.adapters.targets import find_targets, roles_of
from rlora.ops.linear_layers import is_quantized
from rlora.ops.philox import RandomSource

Choice = str | None  # an adapter by its name; None: the backbone alone


@dataclass
class _Chosen:
    """What every layer of a bank looks at: a choice for all rows, or one for each."""

    rows: Choice | Sequence[Choice] = None


class MultiAdapterModel:
    """A frozen model with several adapters in it, switched without loading anything anew.

    Args:
        model: A transformers model without adapters.
        fingerprint: Of its weights, which the adapters must share, see `rlora.ops.fingerprint`.

    Raises:
        RuntimeError: the model carries adapters already.
    """

    def __init__(self, model: nn.Module, fingerprint: str) -> None:
        if getattr(model, MARK, False):
            raise RuntimeError("the model carries adapters already: load the backbone anew")
        setattr(model, MARK, True)
        self.model, self.fingerprint = model.requires_grad_(False), fingerprint
        self.names: list[str] = []
        self._chosen = _Chosen()
        self._layers: dict[str, _Layer] = {}
        self._heads: dict[str, _Head] = {}

    def add(self, name: str, method: Method, folder: Path, *, seed: int) -> None:
        """Load an adapter directory beside those that are there; on any refusal the bank is left as it was.

        Args:
            name: What it is called from now on.
            method: Its method with the options it was trained with.
            folder: As `rlora.adapters.checkpoint.save` wrote it.
            seed: Its run's seed.

        Raises:
            ValueError: the name is taken, the method trains the backbone's own weights, or see `checkpoint.load`.
        """
        if name in self.names:
            raise ValueError(f"there is an adapter {name} already: give another name")
        own_way = type(method).inject is not Method.inject  # PEFT's layers
        if own_way or method.targets is None or list(method.trained_in_backbone(self.model)):
            raise ValueError(
                f"{type(method).__name__} is no update of linear layers: a bank cannot switch it"
            )
        bare = {key: layer.base for key, layer in self._layers.items()} | {
            k: h.base for k, h in self._heads.items()
        }
        with _bare(self.model, bare):
            targets = find_targets(self.model, method.targets, roles_of(self.model))
            prefix = f"{getattr(self.model, 'base_model_prefix', '')}."
            sites = [site_of(self.model, target, prefix) for target in targets]
            updates = method.build(sites, RandomSource(seed, device="cpu"))
            if shared_module(updates) is not None:
                raise ValueError(
                    f"{type(method).__name__} trains parameters of the whole model, which cannot be switched by row: "
                    "load it alone with rlora.load"
                )
            parts: dict[str, list[tuple[int, int, Adapter]]] = {}
            for target, update in zip(targets, updates, strict=True):
                rows = rows_of(self.model.get_submodule(target.module), target)
                parts.setdefault(target.module, []).append((*rows, update))
            head = checkpoint.load_updates(
                dict(zip([site.name for site in sites], updates, strict=True)),
                dict(self.model.named_parameters()),
                method,
                folder,
                fingerprint=self.fingerprint,
                seed=seed,
            )
        self._put_in(name, parts, head)

    def _put_in(
        self,
        name: str,
        parts: Mapping[str, list[tuple[int, int, Adapter]]],
        head: Mapping[str, Tensor],
    ) -> None:
        for path, updates in parts.items():
            if path not in self._layers:
                self._layers[path] = _Layer(self.model.get_submodule(path), self._chosen)
                self.model.set_submodule(path, self._layers[path])
            self._layers[path].add(name, updates)
        for owner in dict.fromkeys(key.rpartition(".")[0] for key in head):
            if owner not in self._heads:
                self._heads[owner] = _Head(self.model.get_submodule(owner), self._chosen)
                self.model.set_submodule(owner, self._heads[owner])
            own = {
                key.rpartition(".")[2]: value
                for key, value in head.items()
                if key.rpartition(".")[0] == owner
            }
            self._heads[owner].add(name, own)
        self.names.append(name)

    @contextlib.contextmanager
    def using(self, rows: Choice | Sequence[Choice]) -> Iterator[nn.Module]:
        """Run the model with an adapter: one for all rows of a batch, or one for each; None: the backbone alone.

        Raises:
            ValueError: an adapter that is not there.
        """
        asked = [rows] if rows is None or isinstance(rows, str) else list(rows)
        if unknown := [each for each in asked if each is not None and each not in self.names]:
            raise ValueError(
                f"there is no adapter {unknown[0]}: choose among {', '.join(self.names)}"
            )
        before, self._chosen.rows = (
            self._chosen.rows,
            rows if rows is None or isinstance(rows, str) else asked,
        )
        try:
            yield self.model
        finally:
            self._chosen.rows = before

    @contextlib.contextmanager
    def merged(self, name: str) -> Iterator[nn.Module]:
        """Run the model with one adapter's W + dW in place of W, without its cost; the very W comes back.

        Raises:
            RuntimeError: a frozen weight is quantized.
        """
        layers = [found for layer in self._layers.values() if (found := layer.of(name))]
        if any(is_quantized(layer.weight) for layer in layers):
            raise RuntimeError("a frozen weight is quantized and cannot hold the sum: run unmerged")
        done: list[AdaptedLinear] = []
        with self.using(name):
            try:
                for layer in layers:
                    layer.merge()
                    done.append(layer)
                yield self.model
            finally:
                for layer in done:
                    layer.unmerge()


class _Layer(nn.Module):
    """A frozen linear layer and the updates of every adapter that goes to it."""

    def __init__(self, base: nn.Module, chosen: _Chosen) -> None:
        super().__init__()
        self.base, self.adapted = base, nn.ModuleDict()
        self._chosen = chosen

    def add(self, name: str, updates: list[tuple[int, int, Adapter]]) -> None:
        device = next(self.base.parameters()).device
        self.adapted[name] = (
            AdaptedLinear(self.base, updates).to(device).eval().requires_grad_(False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) to (B, ..., out)."""
        rows = self._chosen.rows
        if rows is None or isinstance(rows, str):
            y: Tensor = (self.of(rows) or self.base)(x)
            return y
        y = self.base(x)
        for name, index in _groups(rows, len(x)).items():
            if layer := self.of(name):
                for (start, stop), update in zip(layer.rows, layer.adapters(), strict=True):
                    y[index, ..., start:stop] += update(x[index])
        return y

    def of(self, name: Choice) -> AdaptedLinear | None:
        """The layer with one adapter's updates, if it has any here."""
        return (
            cast(AdaptedLinear, self.adapted[name])
            if name is not None and name in self.adapted
            else None
        )


class _Head(nn.Module):
    """A module that adapters have trained in full, each for itself."""

    def __init__(self, base: nn.Module, chosen: _Chosen) -> None:
        super().__init__()
        self.base, self._chosen = base, chosen
        self._own: dict[str, dict[str, Tensor]] = {}

    def add(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        device = next(self.base.parameters()).device
        self._own[name] = {key: value.to(device) for key, value in tensors.items()}

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to what the head makes of it."""
        rows = self._chosen.rows
        if rows is None or isinstance(rows, str):
            return self._one(rows, x)
        parts = {name: self._one(name, x[index]) for name, index in _groups(rows, len(x)).items()}
        first = next(iter(parts.values()))
        y = first.new_empty(len(x), *first.shape[1:])
        for name, index in _groups(rows, len(x)).items():
            y[index] = parts[name]
        return y

    def _one(self, name: Choice, x: Tensor) -> Tensor:
        own = self._own.get(name, {}) if name is not None else {}
        y: Tensor = functional_call(self.base, own, (x,)) if own else self.base(x)
        return y


def _groups(rows: Sequence[Choice], size: int) -> dict[Choice, Tensor]:
    """Rows of a batch by adapter; beams of a row lie side by side.

    Raises:
        ValueError: there are not as many choices as rows.
    """
    if size % len(rows):
        raise ValueError(
            f"{len(rows)} adapters were chosen for a batch of {size} rows: give one for each row"
        )
    each = [row for row in rows for _ in range(size // len(rows))]
    return {
        name: torch.tensor([i for i, row in enumerate(each) if row == name])
        for name in dict.fromkeys(each)
    }


@contextlib.contextmanager
def _bare(model: nn.Module, bases: Mapping[str, nn.Module]) -> Iterator[None]:
    """The model as it was without the bank's layers."""
    inside = {path: model.get_submodule(path) for path in bases}
    for path, base in bases.items():
        model.set_submodule(path, base)
    try:
        yield
    finally:
        for path, layer in inside.items():
            model.set_submodule(path, layer)
