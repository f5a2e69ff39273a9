"""NOLA: Koohpayegani et al., "NOLA: Compressing LoRA using Linear Combination of Random Basis", ICLR 2024.

arXiv 2310.02556.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlora.adapters.base import Adapter, constant_parameter
from rlora.adapters.declared import DeclaredTensors, Site
from rlora.adapters.method import RankedMethod, require_choice
from rlora.ops.hadamard import fwht, next_power_of_two
from rlora.ops.philox import RandomSource
from rlora.ops.thin_products import combine

BASES = ("dense", "hadamard")


@dataclass(frozen=True)
class NOLA(RankedMethod):
    """Train the coefficients of LoRA's factors in a random basis (equation 3).

    dW = s B A, s = alpha / r, with

        A = A0 + sum_{j=1..k} a_j A_j   (r, in)        B = sum_{j=1..k} b_j B_j   (out, r)

    A0 (r, in), frozen and of its own for every layer, is drawn as LoRA's A; B0 = 0. Trained: a and b (k,), both
    starting at 0: 2 k parameters a layer, whatever the rank. The basis is shared by all layers of a shape; its entries
    have variance 1/(3 k):

        dense      A_j entries uniform on (-1, 1) / sqrt(k), a bank of k r in numbers
        hadamard   sum_j a_j A_j = first r in entries of  H S Pi H [a; 0] / sqrt(3 k n),  n = n(r in), S signs, Pi a
                   permutation: no bank, cost independent of k. Not in the paper.

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
        if (
            isinstance(self.num_bases, bool)
            or not isinstance(self.num_bases, int)
            or self.num_bases < 1
        ):
            raise ValueError(
                f"adapter.num_bases={self.num_bases!r} must be a whole number of at least 1"
            )

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """One basis a shape, two coefficient vectors a site."""
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
        kind = DenseBasis if self.basis == "dense" else HadamardBasis
        return Mixer(kind(self.num_bases, self.rank * size, source.of(f"shared/{factor}/{size}")))


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
        """(B, A)."""
        b = self.left.mix(self, "b").view(self.site.out_features, self.rank)
        return b, self.A0 + self.right.mix(self, "a").view_as(self.A0)


class DenseBasis(DeclaredTensors):
    """A bank of k random vectors: coefficients (L, k) to combinations (L, size)."""

    bank: Tensor

    def __init__(self, k: int, size: int, source: RandomSource) -> None:
        super().__init__()
        self.regenerate("bank", source.uniform("bank", (k, size), 1 / math.sqrt(k)))

    def forward(self, coefficients: Tensor) -> Tensor:
        """C . Bank."""
        return combine(coefficients, self.bank)


class HadamardBasis(DeclaredTensors):
    """k structured random vectors that are never formed: coefficients (L, k) to combinations (L, size).

    The signs between the transforms matter: without them a single coefficient moves a single entry.
    """

    permutation: Tensor
    signs: Tensor

    def __init__(self, k: int, size: int, source: RandomSource) -> None:
        super().__init__()
        self.size, self.order = size, next_power_of_two(size)
        if k > self.order:
            raise ValueError(
                f"adapter.num_bases={k} is above the {self.order} vectors a hadamard basis of this shape has: "
                f"set it to 1..{self.order}, or adapter.basis=dense"
            )
        self.scale = 1 / math.sqrt(3 * k * self.order)
        self.regenerate("permutation", source.permutation("permutation", self.order))
        self.regenerate("signs", source.signs("signs", (self.order,)))

    def forward(self, coefficients: Tensor) -> Tensor:
        """First entries of c H Pi S H, scaled."""
        spread = fwht(coefficients, self.order)
        return fwht(spread[:, self.permutation] * self.signs)[:, : self.size] * self.scale


class Mixer(nn.Module):
    """Combines the basis for all layers of a shape in one product a forward pass.

    The first layer that asks pays for all; each of the others is handed its row of the result once. A layer that asks
    again is in another pass and starts a new product, so that every pass has a graph of its own.
    """

    def __init__(self, basis: nn.Module) -> None:
        super().__init__()
        self.basis = basis
        self._members: list[tuple[nn.Module, str]] = []
        self._result: _Mixed | None = None

    def join(self, layer: nn.Module, name: str) -> None:
        """Enter a layer whose coefficients (k,) are its attribute `name`."""
        self._members.append((layer, name))

    def mix(self, layer: Any, name: str) -> Tensor:
        """The combination (size,) of one layer's coefficients."""
        own: Tensor = getattr(layer, name)
        if (
            torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        ):  # nothing may outlive these
            return self.basis(own[None])[0]
        if self._result is None or not self._result.serves(layer, own):
            self._result = self._mix_all()
        return self._result.rows.pop(layer)

    def _mix_all(self) -> "_Mixed":
        members = [(layer, getattr(layer, name)) for layer, name in self._members]
        # its own saved tensors, so that a checkpointed layer saves the same whether it pays or is handed its row
        own_tensors = torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is)
        with torch.autocast(members[0][1].device.type, enabled=False), own_tensors:
            mixed = self.basis(torch.stack([coefficients for _, coefficients in members]))
            rows = dict(zip((layer for layer, _ in members), mixed.unbind(), strict=True))
        if mixed.requires_grad:
            mixed.register_hook(self._forget)
        return _Mixed(
            rows, {layer: (tensor, _version(tensor)) for layer, tensor in members}, _gradient_mode()
        )

    def _forget(self, _: Tensor) -> None:
        self._result = None  # the graph behind it is gone with the backward pass

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_result": None}  # a copy or a pickle starts without it


@dataclass(frozen=True)
class _Mixed:
    """One product's rows by layer, until they are handed out, and the coefficients and mode they come from."""

    rows: dict[nn.Module, Tensor]
    origins: dict[nn.Module, tuple[Tensor, int | None]]
    mode: tuple[bool, bool]

    def serves(self, layer: nn.Module, coefficients: Tensor) -> bool:
        tensor, version = self.origins[layer]
        unchanged = tensor is coefficients and _version(tensor) == version
        return layer in self.rows and unchanged and self.mode == _gradient_mode()


def _version(tensor: Tensor) -> int | None:
    return (
        None if tensor.is_inference() else tensor._version
    )  # those made in inference mode count no versions


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _gradient_mode() -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()
