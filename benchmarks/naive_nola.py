"""NOLA as its authors' code computes it: every layer regenerates its random bases in every pass.

This is a re-implementation of github.com/UCDvision/NOLA, commit 03c7027, gpt/src/model_nola.py
(GenerateParams, NOLALinear, LoRA). It omits the original's zero-filled tensor and copies of the
basis, so it is at least as fast.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def draw_basis(k: int, size: int, seed: int, device: torch.device) -> Tensor:
    """Return k basis vectors (k, size), uniform on (-1, 1) / sqrt(k), from a separate generator."""
    generator = torch.Generator(device).manual_seed(seed)
    return (
        torch.empty(k, size, device=device)
        .uniform_(-1.0, 1.0, generator=generator)
        .div_(math.sqrt(k))
    )


class Redrawn(torch.autograd.Function):
    """sum_j c_j V_j of k random vectors V_j, which exist only during the sum."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, size: int, seed: int) -> Tensor:
        """Generate the vectors and map coefficients (k,) to (size,)."""
        ctx.seed = seed
        ctx.save_for_backward(coefficients)
        basis = draw_basis(len(coefficients), size, seed, coefficients.device)
        with torch.autocast(basis.device.type, enabled=False):  # sums in float32
            return coefficients @ basis

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Generate the vectors again: the gradient of c_j is <V_j, gradient>."""
        (coefficients,) = ctx.saved_tensors
        basis = draw_basis(len(coefficients), len(gradient), ctx.seed, coefficients.device)
        with torch.autocast(basis.device.type, enabled=False):
            return basis @ gradient, None, None


class NaiveNOLALinear(nn.Module):
    """W x + s B A x with A = A0 + sum_j a_j V_j and B = sum_j b_j V'_j; a and b train.

    Args:
        base: nn.Linear, or Hugging Face's Conv1D.
        rank: r.
        num_bases: k of each factor.
        seed: Seed of this layer: A uses seed, B uses seed + 1.
        scale: s.
    """

    A0: Tensor

    def __init__(self, base: nn.Module, rank: int, num_bases: int, seed: int, scale: float) -> None:
        super().__init__()
        weight: Tensor = base.weight  # type: ignore[assignment]
        rows, columns = weight.shape if isinstance(base, nn.Linear) else weight.shape[::-1]
        self.base, self.rank, self.seed, self.scale = base, rank, seed, scale
        self.in_features, self.out_features = columns, rows
        self.register_buffer(
            "A0", torch.empty(rank, columns, device=weight.device).uniform_(-1, 1) / columns**0.5
        )
        self.a = nn.Parameter(torch.zeros(num_bases, device=weight.device))
        self.b = nn.Parameter(torch.zeros(num_bases, device=weight.device))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return B (out, r) and A (r, in)."""
        a: Tensor = Redrawn.apply(self.a, self.A0.numel(), self.seed)
        b: Tensor = Redrawn.apply(self.b, self.out_features * self.rank, self.seed + 1)
        return b.view(self.out_features, self.rank), self.A0 + a.view_as(self.A0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        b, a = self.factors()
        return self.base(x) + F.linear(F.linear(x, a.to(x.dtype)), b.to(x.dtype)) * self.scale


def wrap_layers(
    model: nn.Module, modules: Sequence[str], rank: int, num_bases: int, scale: float
) -> None:
    """Freeze a model and wrap each of the named layers, in place."""
    model.requires_grad_(False)
    for index, name in enumerate(modules):
        layer = NaiveNOLALinear(model.get_submodule(name), rank, num_bases, 2 * index, scale)
        model.set_submodule(name, layer)
