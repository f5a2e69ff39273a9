"""Several trained adapters on one backbone, selected per call or per row of a batch."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rlora.adapters import checkpoint, saving
from rlora.adapters.base import Adapter
from rlora.adapters.inject import rows_of, site_of
from rlora.adapters.linear import AdaptedLinear
from rlora.adapters.method import Method
from rlora.adapters.structure import shared_module
from rlora.adapters.targets import find_targets, roles_of
from rlora.ops.linear_layers import is_quantized
from rlora.ops.philox import RandomSource

Choice = str | None  # the name of an adapter; None: the backbone without one


@dataclass
class _Selection:
    """The selection that all layers of a model read: one choice for all rows, or one per row."""

    rows: Choice | Sequence[Choice] = None


class MultiAdapterModel:
    """A frozen model with several adapters, which are switched without loading.

    Args:
        model: A transformers model without adapters.
        fingerprint: Of its weights, which the adapters must share; see `rlora.ops.fingerprint`.

    Raises:
        RuntimeError: the model carries adapters already.
    """

    def __init__(self, model: nn.Module, fingerprint: str) -> None:
        saving.refuse_adapted(model)
        saving.mark(model)
        saving.refuse_saving(
            model, "the model has several adapters; load one of them with rlora.load"
        )
        self.model, self.fingerprint = model.requires_grad_(False), fingerprint
        self.names: list[str] = []
        self._merged: str | None = None
        self._selection = _Selection()
        self._layers: dict[str, _Layer] = {}
        self._heads: dict[str, _Head] = {}

    def add(self, name: str, method: Method, folder: Path | str, *, seed: int) -> None:
        """Load one more adapter directory; on any refusal the model is unchanged.

        Args:
            name: Name under which it is selected, any text.
            method: Its method with the options it was trained with.
            folder: As `rlora.adapters.checkpoint.save` wrote it.
            seed: Its run's seed.

        Raises:
            ValueError: the name is taken or empty, the method is not one update per linear layer,
                or see `checkpoint.load`.
            RuntimeError: an adapter is merged.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"name={name!r} is invalid: expected a text that is not empty")
        if self._merged is not None:
            raise RuntimeError(f"{self._merged} is merged: add an adapter outside of `merged`")
        if name in self.names:
            raise ValueError(f"there is an adapter {name} already: give another name")
        # a method with its own `inject`, such as PEFT's, has no updates to switch
        brings_layers = type(method).inject is not Method.inject
        if brings_layers or method.targets is None or list(method.trained_in_backbone(self.model)):
            raise ValueError(
                f"{type(method).__name__} is not an update of linear layers: it cannot be "
                "switched, load it alone"
            )
        bases = {path: layer.base for path, layer in self._layers.items()}
        bases |= {path: layer.base for path, layer in self._heads.items()}
        # names, shapes and weights of targets and heads are those of the backbone without wrappers
        with saving.unwrapped(self.model, bases):
            updates, head = self._load(method, Path(folder), seed)
        self._attach(name, updates, head)

    def _load(
        self, method: Method, folder: Path, seed: int
    ) -> tuple[dict[str, list[tuple[int, int, Adapter]]], dict[str, Tensor]]:
        """Build and fill the updates of an adapter; return them by module name, and its head."""
        assert method.targets is not None
        targets = find_targets(self.model, method.targets, roles_of(self.model))
        prefix = f"{getattr(self.model, 'base_model_prefix', '')}."
        sites = [site_of(self.model, target, prefix) for target in targets]
        updates = method.build(sites, RandomSource(seed, device="cpu"))
        if shared_module(updates) is not None:
            raise ValueError(
                f"{type(method).__name__} trains parameters of the whole model, which cannot be "
                "switched by row: load it alone with rlora.load"
            )
        by_module: dict[str, list[tuple[int, int, Adapter]]] = {}
        for target, update in zip(targets, updates, strict=True):
            rows = rows_of(self.model.get_submodule(target.module), target)
            by_module.setdefault(target.module, []).append((*rows, update))
        head = checkpoint.load_updates(
            dict(zip([site.name for site in sites], updates, strict=True)),
            self.model,
            method,
            folder,
            fingerprint=self.fingerprint,
            seed=seed,
        )
        return by_module, head

    def _attach(
        self,
        name: str,
        updates: Mapping[str, list[tuple[int, int, Adapter]]],
        head: Mapping[str, Tensor],
    ) -> None:
        """Put loaded updates and head tensors into the model, all of them or none."""
        adapted = {
            path: _adapted(self._base(path, self._layers), members)
            for path, members in updates.items()
        }
        by_owner: dict[str, dict[str, Tensor]] = {}
        for key, value in head.items():
            owner, _, attribute = key.rpartition(".")
            device = _device(self._base(owner, self._heads))
            by_owner.setdefault(owner, {})[attribute] = value.to(device)
        # what can fail, such as memory on a device, has happened
        for path, layer in adapted.items():
            if path not in self._layers:
                self._layers[path] = _Layer(layer.base, self._selection)
                self.model.set_submodule(path, self._layers[path])
                saving.keep_layers_called(self.model, [path])
            self._layers[path].add(name, layer)
        for owner, tensors in by_owner.items():
            if owner not in self._heads:
                self._heads[owner] = _Head(self.model.get_submodule(owner), self._selection)
                self.model.set_submodule(owner, self._heads[owner])
            self._heads[owner].add(name, tensors)
        self.names.append(name)

    def _base(self, path: str, wrappers: "Mapping[str, _Layer | _Head]") -> nn.Module:
        return wrappers[path].base if path in wrappers else self.model.get_submodule(path)

    @contextlib.contextmanager
    def using(self, rows: Choice | Sequence[Choice]) -> Iterator[nn.Module]:
        """Run the model with one adapter for all rows, or one per row; None means no adapter.

        Raises:
            ValueError: an unknown adapter, or a list without adapters.
            RuntimeError: another adapter is merged.
        """
        per_row = None if rows is None or isinstance(rows, str) else list(rows)
        names = [rows] if per_row is None else per_row
        if not names:
            raise ValueError("rows=[] is invalid: expected the name of an adapter, or one per row")
        if self._merged is not None and set(names) != {self._merged}:
            raise RuntimeError(f"{self._merged} is merged: choose others outside of `merged`")
        if unknown := [name for name in names if name is not None and name not in self.names]:
            known = ", ".join(self.names) or "(none)"
            raise ValueError(f"there is no adapter {unknown[0]}: choose among {known}")
        before = self._selection.rows
        self._selection.rows = rows if per_row is None else per_row
        try:
            yield self.model
        finally:
            self._selection.rows = before

    @contextlib.contextmanager
    def merged(self, name: str) -> Iterator[nn.Module]:
        """Run the model with one adapter merged, without its cost; then restore W.

        Raises:
            ValueError: an unknown adapter.
            RuntimeError: a frozen weight is quantized, or an adapter is merged already.
        """
        if self._merged is not None:
            raise RuntimeError(f"{self._merged} is merged already: leave its `merged` first")
        candidates = [wrapper.of(name) for wrapper in self._layers.values()]
        layers = [layer for layer in candidates if layer is not None]
        if any(is_quantized(layer.weight) for layer in layers):
            raise RuntimeError("a frozen weight is quantized and cannot hold the sum: run unmerged")
        done: list[AdaptedLinear] = []
        with self.using(name):
            try:
                for layer in layers:
                    layer.merge()
                    done.append(layer)
                self._merged = name
                yield self.model
            finally:
                self._merged = None
                # those that are merged, if the merging itself failed
                for layer in done:
                    layer.unmerge()


class _Layer(nn.Module):
    """A frozen linear layer and the updates of every adapter that adapts it."""

    def __init__(self, base: nn.Module, selection: _Selection) -> None:
        super().__init__()
        self.base, self.adapted = base, nn.ModuleList()
        self._numbers: dict[str, int] = {}  # a module's name could not be any text
        self._selection = selection
        self.train(base.training)

    def add(self, name: str, layer: AdaptedLinear) -> None:
        """Add the base with the updates of one adapter."""
        self._numbers[name] = len(self.adapted)
        self.adapted.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) to (B, ..., out)."""
        rows = self._selection.rows
        if rows is None or isinstance(rows, str):
            y: Tensor = (self.of(rows) or self.base)(x)
            return y
        # W x runs once for the whole batch; each adapter adds dW x to its own rows
        y = self.base(x)
        for name, index in _groups(rows, len(x)).items():
            if layer := self.of(name):
                for (start, stop), update in zip(layer.rows, layer.adapters(), strict=True):
                    y[index, ..., start:stop] += update(x[index])
        return y

    def of(self, name: Choice) -> AdaptedLinear | None:
        """Return the layer with one adapter's updates, None if the adapter has none for it."""
        if name is None or name not in self._numbers:
            return None
        return cast(AdaptedLinear, self.adapted[self._numbers[name]])


def _adapted(base: nn.Module, updates: Sequence[tuple[int, int, Adapter]]) -> AdaptedLinear:
    """Return a layer with the updates of one adapter, frozen, on its device and in its mode."""
    layer = AdaptedLinear(base, updates)
    layer.updates.to(_device(base))
    return layer.train(base.training).requires_grad_(False)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


class _Head(nn.Module):
    """A module that adapters have trained in full, with each adapter's own tensors."""

    def __init__(self, base: nn.Module, selection: _Selection) -> None:
        super().__init__()
        self.base, self._selection = base, selection
        self._tensors: dict[str, dict[str, Tensor]] = {}
        self.train(base.training)

    def add(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Add the tensors of one adapter, by the name of the base's parameter."""
        self._tensors[name] = tensors

    def forward(self, x: Tensor) -> Tensor:
        """Apply the selected head to x (B, ...)."""
        rows = self._selection.rows
        if rows is None or isinstance(rows, str):
            return self._apply_one(rows, x)
        groups = _groups(rows, len(x))
        parts = {name: self._apply_one(name, x[index]) for name, index in groups.items()}
        first = next(iter(parts.values()))
        y = first.new_empty(len(x), *first.shape[1:])
        for name, index in groups.items():
            y[index] = parts[name]
        return y

    def _apply_one(self, name: Choice, x: Tensor) -> Tensor:
        tensors = self._tensors.get(name, {}) if name is not None else {}
        y: Tensor = functional_call(self.base, tensors, (x,)) if tensors else self.base(x)
        return y


def _groups(rows: Sequence[Choice], size: int) -> dict[Choice, Tensor]:
    """Return the row numbers of each adapter; the beams of one row are adjacent rows of the batch.

    Raises:
        ValueError: the number of rows is not a multiple of the number of choices.
    """
    if size % len(rows):
        raise ValueError(
            f"{len(rows)} adapters were chosen for a batch of {size} rows: give one for each row"
        )
    names = [row for row in rows for _ in range(size // len(rows))]
    return {
        name: torch.tensor([i for i, row in enumerate(names) if row == name])
        for name in dict.fromkeys(names)
    }
