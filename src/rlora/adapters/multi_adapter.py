"""Several trained adapters on one backbone, selected per call or per row of a batch."""

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
        if getattr(model, MARK, False):
            raise RuntimeError("the model carries adapters already: load the backbone again")
        setattr(model, MARK, True)
        self.model, self.fingerprint = model.requires_grad_(False), fingerprint
        self.names: list[str] = []
        self._selection = _Selection()
        self._layers: dict[str, _Layer] = {}
        self._heads: dict[str, _Head] = {}

    def add(self, name: str, method: Method, folder: Path, *, seed: int) -> None:
        """Load one more adapter directory; on any refusal the model is unchanged.

        Args:
            name: Name under which it is selected.
            method: Its method with the options it was trained with.
            folder: As `rlora.adapters.checkpoint.save` wrote it.
            seed: Its run's seed.

        Raises:
            ValueError: the name is taken, the method is not one update per linear layer, or see
                `checkpoint.load`.
        """
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
        with _unwrapped(self.model, bases):
            updates, head = self._load(method, folder, seed)
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
            dict(self.model.named_parameters()),
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
        """Put loaded updates and head tensors into the model; nothing here can fail."""
        for path, members in updates.items():
            if path not in self._layers:
                self._layers[path] = _Layer(self.model.get_submodule(path), self._selection)
                self.model.set_submodule(path, self._layers[path])
            self._layers[path].add(name, members)
        by_owner: dict[str, dict[str, Tensor]] = {}
        for key, value in head.items():
            owner, _, attribute = key.rpartition(".")
            by_owner.setdefault(owner, {})[attribute] = value
        for owner, tensors in by_owner.items():
            if owner not in self._heads:
                self._heads[owner] = _Head(self.model.get_submodule(owner), self._selection)
                self.model.set_submodule(owner, self._heads[owner])
            self._heads[owner].add(name, tensors)
        self.names.append(name)

    @contextlib.contextmanager
    def using(self, rows: Choice | Sequence[Choice]) -> Iterator[nn.Module]:
        """Run the model with one adapter for all rows, or one per row; None means no adapter.

        Raises:
            ValueError: an unknown adapter.
        """
        per_row = None if rows is None or isinstance(rows, str) else list(rows)
        names = [rows] if per_row is None else per_row
        if unknown := [name for name in names if name is not None and name not in self.names]:
            raise ValueError(
                f"there is no adapter {unknown[0]}: choose among {', '.join(self.names)}"
            )
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
            RuntimeError: a frozen weight is quantized.
        """
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
                yield self.model
            finally:
                # those that are merged, if the merging itself failed
                for layer in done:
                    layer.unmerge()


class _Layer(nn.Module):
    """A frozen linear layer and the updates of every adapter that adapts it."""

    def __init__(self, base: nn.Module, selection: _Selection) -> None:
        super().__init__()
        self.base, self.adapted = base, nn.ModuleDict()
        self._selection = selection

    def add(self, name: str, updates: list[tuple[int, int, Adapter]]) -> None:
        """Add the updates of one adapter; they share the base."""
        device = next(self.base.parameters()).device
        self.adapted[name] = (
            AdaptedLinear(self.base, updates).to(device).eval().requires_grad_(False)
        )

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
        if name is None or name not in self.adapted:
            return None
        return cast(AdaptedLinear, self.adapted[name])


class _Head(nn.Module):
    """A module that adapters have trained in full, with each adapter's own tensors."""

    def __init__(self, base: nn.Module, selection: _Selection) -> None:
        super().__init__()
        self.base, self._selection = base, selection
        self._tensors: dict[str, dict[str, Tensor]] = {}

    def add(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Add the tensors of one adapter, by the name of the base's parameter."""
        device = next(self.base.parameters()).device
        self._tensors[name] = {key: value.to(device) for key, value in tensors.items()}

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


@contextlib.contextmanager
def _unwrapped(model: nn.Module, bases: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put the backbone's modules back in place of their wrappers while the block runs."""
    wrappers = {path: model.get_submodule(path) for path in bases}
    for path, base in bases.items():
        model.set_submodule(path, base)
    try:
        yield
    finally:
        for path, wrapper in wrappers.items():
            model.set_submodule(path, wrapper)
