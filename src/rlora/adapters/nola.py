"""NOLA: Koohpayegani et al., "NOLA: Compressing LoRA using Linear Combination of Random Basis".

ICLR 2024, arXiv 2310.02556.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlora.adapters.base import Adapter, constant_parameter
from rlora.adapters.declared import DeclaredTensors, Site
from rlora.adapters.method import RankedMethod, require_choice, require_count
from rlora.ops.hadamard import fwht, next_power_of_two
from rlora.ops.philox import RandomSource
from rlora.ops.thin_products import combine

BASES = ("dense", "hadamard")


@dataclass(frozen=True)
class NOLA(RankedMethod):
    """Train the coefficients of LoRA's factors in a random basis (equation 3).

    dW = s B A, s = alpha / r, with

        A = A0 + sum_{j=1..k} a_j A_j   (r, in)        B = sum_{j=1..k} b_j B_j   (out, r)

    A0 (r, in) is frozen, separate for every layer, and sampled like LoRA's A; B0 = 0. Trained: a
    and b (k,), which start at 0: 2 k parameters per layer for every rank. All layers of a shape
    share the basis, whose entries have variance 1/(3 k):

        dense      A_j entries uniform on (-1, 1) / sqrt(k), a bank of k r in numbers
        hadamard   sum_j a_j A_j = first r in entries of  H S Pi H [a; 0] / sqrt(3 k n),
                   n = n(r in), S signs, Pi a permutation: no bank, cost independent of k.
                   Not in the paper.

    Args:
        rank: r, in 1..min(in, out).
        alpha: Numerator of the scale.
        dropout: On the update's input.
        targets: Which layers are adapted.
        num_bases: k, the number of basis matrices for each factor.
        basis: "dense" or "hadamard".
    """

    num_bases: int = 512
    basis: str = "dense"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("adapter.basis", self.basis, BASES)
        require_count("adapter.num_bases", self.num_bases)

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Build one basis per shape, and two coefficient vectors per site."""
        self.check_rank(sites)
        rights = {
            width: self._mixer("A", width, source)
            for width in sorted({site.in_features for site in sites})
        }
        lefts = {
            height: self._mixer("B", height, source)
            for height in sorted({site.out_features for site in sites})
        }
        return [
            NOLALayer(
                site, self, rights[site.in_features], lefts[site.out_features], source.of(site.name)
            )
            for site in sites
        ]

    def _mixer(self, factor: str, size: int, source: RandomSource) -> "Mixer":
        basis = DenseBasis if self.basis == "dense" else HadamardBasis
        return Mixer(basis(self.num_bases, self.rank * size, source.of(f"shared/{factor}/{size}")))


class NOLALayer(Adapter):
    """dW = s B A, A = A0 + mix(a), B = mix(b); a and b are trained."""

    A0: Tensor

    def __init__(
        self, site: Site, method: NOLA, right: "Mixer", left: "Mixer", source: RandomSource
    ) -> None:
        super().__init__(site, method.dropout)
        self.rank, self.scale = method.rank, method.scale
        a0 = source.uniform("A0", (method.rank, site.in_features), 1 / math.sqrt(site.in_features))
        self.regenerate("A0", a0)
        self.a = constant_parameter(source, (method.num_bases,), 0.0)
        self.b = constant_parameter(source, (method.num_bases,), 0.0)
        self.right, self.left = right, left
        right.join(self, "a")
        left.join(self, "b")

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (B, A)."""
        b = self.left.mix(self, "b").view(self.site.out_features, self.rank)
        return b, self.A0 + self.right.mix(self, "a").view_as(self.A0)


class DenseBasis(DeclaredTensors):
    """A bank of k random vectors; maps coefficients (L, k) to combinations (L, size)."""

    bank: Tensor

    def __init__(self, k: int, size: int, source: RandomSource) -> None:
        super().__init__()
        self.regenerate("bank", source.uniform("bank", (k, size), 1 / math.sqrt(k)))

    def forward(self, coefficients: Tensor) -> Tensor:
        """Return C . Bank, (L, size)."""
        return combine(coefficients, self.bank)


class HadamardBasis(DeclaredTensors):
    """k structured random vectors that are never formed; maps coefficients (L, k) to (L, size).

    Without the signs between the transforms, a single coefficient would move a single entry.
    """

    permutation: Tensor
    signs: Tensor

    def __init__(self, k: int, size: int, source: RandomSource) -> None:
        super().__init__()
        self.size, self.order = size, next_power_of_two(size)
        if k > self.order:
            raise ValueError(
                f"adapter.num_bases={k} is above the {self.order} vectors of a hadamard basis of "
                f"this shape: set it to 1..{self.order}, or adapter.basis=dense"
            )
        self.scale = 1 / math.sqrt(3 * k * self.order)
        self.regenerate("permutation", source.permutation("permutation", self.order))
        self.regenerate("signs", source.signs("signs", (self.order,)))

    def forward(self, coefficients: Tensor) -> Tensor:
        """Return the first entries of c H Pi S H, scaled, (L, size)."""
        spread = fwht(coefficients, self.order)
        return fwht(spread[:, self.permutation] * self.signs)[:, : self.size] * self.scale


class Mixer(nn.Module):
    """Combines the basis for all layers of a shape in one product per forward pass.

    One product of (L, k) coefficients reads the bank once instead of L times. The first layer that
    asks computes it; every other layer takes its row of the result, once. A layer that asks for a
    second row is in another pass and starts a new product, so that every pass has its own graph.
    """

    def __init__(self, basis: nn.Module) -> None:
        super().__init__()
        self.basis = basis
        self._members: list[tuple[nn.Module, str]] = []
        self._product: _Product | None = None

    def join(self, layer: nn.Module, name: str) -> None:
        """Add a layer whose coefficients (k,) are its attribute `name`."""
        self._members.append((layer, name))

    def mix(self, layer: Any, name: str) -> Tensor:
        """Return the combination (size,) of one layer's coefficients."""
        coefficients: Tensor = getattr(layer, name)
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            # Traced and transformed tensors must not outlive their trace: compute this row alone.
            return self.basis(coefficients[None])[0]
        if self._product is None or not self._product.serves(layer, coefficients):
            self._product = self._mix_all()
        return self._product.rows.pop(layer)

    def _mix_all(self) -> "_Product":
        members = [(layer, getattr(layer, name)) for layer, name in self._members]
        # These hooks replace those of an enclosing torch.utils.checkpoint. A recomputed layer must
        # save the same tensors as in the first pass, whether it computes the product or takes a
        # row.
        own_hooks = torch.autograd.graph.saved_tensors_hooks(_unchanged, _unchanged)
        # Coefficients stay in float32 under autocast, and so does the sum of k terms.
        with torch.autocast(members[0][1].device.type, enabled=False), own_hooks:
            mixed = self.basis(torch.stack([coefficients for _, coefficients in members]))
            rows = dict(zip((layer for layer, _ in members), mixed.unbind(), strict=True))
        if mixed.requires_grad:
            # Backward frees the product's graph: rows that are left belong to no later pass.
            mixed.register_hook(self._drop)
        versions = {layer: (tensor, _version(tensor)) for layer, tensor in members}
        return _Product(rows, versions, _gradient_mode())

    def _drop(self, _: Tensor) -> None:
        self._product = None

    def __getstate__(self) -> dict[str, Any]:
        # Graph tensors can be neither copied nor pickled; a copy computes its own product.
        return {**self.__dict__, "_product": None}


@dataclass(frozen=True)
class _Product:
    """The rows of one product that no layer has taken yet, and what the product was computed from.

    Attributes:
        rows: Layer to its combination (size,).
        origins: Layer to its coefficients and their version.
        mode: Gradient mode and inference mode during the product.
    """

    rows: dict[nn.Module, Tensor]
    origins: dict[nn.Module, tuple[Tensor, int | None]]
    mode: tuple[bool, bool]

    def serves(self, layer: nn.Module, coefficients: Tensor) -> bool:
        """Return whether the product has this layer's row for these coefficients and this mode."""
        tensor, version = self.origins[layer]
        # identity detects replaced parameters (functional_call, a posterior's sample),
        # the version an optimizer's step in place
        unchanged = tensor is coefficients and _version(tensor) == version
        # a row computed without gradient must not enter a training pass
        return layer in self.rows and unchanged and self.mode == _gradient_mode()


def _version(tensor: Tensor) -> int | None:
    """Return a tensor's version counter; tensors made in inference mode have none."""
    return None if tensor.is_inference() else tensor._version


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def _gradient_mode() -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()
