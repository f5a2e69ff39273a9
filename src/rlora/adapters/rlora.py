"""RLoRA: both LoRA factors are randomized Walsh-Hadamard transforms with learned diagonals.

Lei, Qian and Cheung, "Fast Randomized Low-Rank Adaptation of Pre-trained Language Models with PAC
Regularization", Findings of ACL 2024, 5236-5249. Only its abstract was available: a randomized
Walsh-Hadamard transform replaces LoRA's pair of trained projections and reduces the number of
trained parameters. Which diagonal trains, its start and its scale are this project's reading, after
the subsampled randomized Hadamard transform (Ailon and Chazelle, STOC 2006) and Fastfood (Le,
Sarlos and Smola, ICML 2013).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from rlora.adapters.base import Adapter, along, constant_parameter, uniform_parameter
from rlora.adapters.declared import DeclaredTensors, Site
from rlora.adapters.dispatch import ComputePath, cheapest_path, transform_cost
from rlora.adapters.method import RankedMethod, require_choice
from rlora.ops.context import compute_dtype, without_autocast
from rlora.ops.hadamard import fwht, hadamard_rows, next_power_of_two
from rlora.ops.philox import RandomSource

TRANSFORMS = ("srht", "fastfood")
FEW_ROWS = 16  # up to this rank, a product with the rows of H costs less than a whole transform
# Up to this rank S H D is kept, one byte per entry: generating it in forward and backward takes a
# dozen small kernels, on a GPU longer than the products with it.
KEPT_ROWS = 64


@dataclass(frozen=True)
class RLoRA(RankedMethod):
    """Train the diagonals of two randomized Walsh-Hadamard transforms.

        dW = s B diag(g) A,   s = alpha / r

    H is the Hadamard matrix with entries +-1 of order n(d), the smallest power of two that is at
    least d. S_r and S'_r select r of its rows without replacement, D and D' are random signs, Pi
    and Pi' random permutations: all regenerated from the seed.

        srht      A = S_r H diag(a) D                       (r, in)
                  B = (S'_r H diag(b) D')^T                 (out, r)
        fastfood  A = S_r H diag(a) Pi H/sqrt(n) D          (r, in)
                  B = (S'_r H diag(b) Pi' H/sqrt(n) D')^T   (out, r)

    cut to the first `in` (for B: `out`) columns. Trained: a and b, one number per feature
    (fastfood: n(in) and n(out)) for every rank, and g (r,) with `core`. a starts uniform on
    (-1/sqrt(in), 1/sqrt(in)), so that A's entries have LoRA's variance 1/(3 in); b starts at 0, g
    at 1. The second transform is orthonormal, so that one learning rate fits both.

    Args:
        rank: r, in 1..min(in, out).
        alpha: Numerator of the scale.
        dropout: On the update's input.
        targets: Which layers are adapted.
        transform: "srht" or "fastfood".
        core: Train g as well.
    """

    transform: str = "srht"
    core: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("adapter.transform", self.transform, TRANSFORMS)

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Build two transforms per site."""
        self.check_rank(sites)
        return [RLoRALayer(site, self, source.of(site.name)) for site in sites]


class RLoRALayer(Adapter):
    """dW = s B diag(g) A; a, b and, with a core, g are trained."""

    per_example = True

    def __init__(self, site: Site, method: RLoRA, source: RandomSource) -> None:
        super().__init__(site, method.dropout)
        self.scale, self.rank = method.scale, method.rank
        transform = SRHT if method.transform == "srht" else Fastfood
        self.right = transform(site.in_features, method.rank, source, "A")
        self.left = transform(site.out_features, method.rank, source, "B")
        self.a = uniform_parameter(
            source, "a", (self.right.diagonal_size,), 1 / math.sqrt(site.in_features)
        )
        self.b = constant_parameter(source, (self.left.diagonal_size,), 0.0)
        self.g = constant_parameter(source, (method.rank,), 1.0) if method.core else None

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (B diag(g), A)."""
        left, right = self.left(self.b).mT, self.right(self.a)
        return left if self.g is None else left * self.g, right

    def transformed(self, x: Tensor, a: Tensor, b: Tensor, g: Tensor | None) -> Tensor:
        """Return dW x, (..., in) to (..., out), without forming a factor.

        The cost is n log n per token for every rank.
        """
        dtype = compute_dtype(x)
        with without_autocast(x):
            u = self.right.apply_to(x.to(dtype), a.to(dtype))
            u = self.scale * (u if g is None else u * g.to(dtype))
            return self.left.apply_transposed_to(u, b.to(dtype))

    def each(self, x: Tensor) -> Tensor:
        """Return dW_e x_e, (B, ..., out).

        The diagonals multiply activations, so that separate ones per example cost no product.
        """
        g = None if self.g is None else along(self.g, x)
        return self.transformed(x, along(self.a, x), along(self.b, x), g).to(x.dtype)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return (W + dW) x + c, by transforming activations if that costs less (large ranks)."""
        path = cheapest_path(self.costs(x, self.rank))
        if path is not ComputePath.TRANSFORMED:
            return self.linear_by(path, self.factors(), x, weight, bias)
        y, inputs = F.linear(x, weight, bias), (x, self.a, self.b, self.g)
        if not torch.is_grad_enabled():
            return y.add_(self.transformed(*inputs))
        # Autograd would keep every stage of the transforms: keep x only, and transform again in
        # backward. There is no dropout on this path, hence no RNG state to preserve.
        change: Tensor = checkpoint(
            self.transformed, *inputs, use_reentrant=False, preserve_rng_state=False
        )
        return y.add_(change)

    def costs(self, x: Tensor, rank: int) -> dict[ComputePath, float]:
        """Return the costs of all paths, see `Adapter.costs`, with that of the transforms."""
        i, o = self.site.in_features, self.site.out_features
        once = transform_cost(x.numel() // i, i, o, x.device)
        return super().costs(x, rank) | {ComputePath.TRANSFORMED: self.right.transforms * once}


class SRHT(DeclaredTensors):
    """Subsampled randomized Hadamard transform S_r H diag(v) D, (r, d), with diagonal v (d,)."""

    transforms = 1
    rows: Tensor
    signs: Tensor
    kept: Tensor | None

    def __init__(self, size: int, rank: int, source: RandomSource, tag: str) -> None:
        super().__init__()
        self.size, self.order = size, next_power_of_two(size)
        self.diagonal_size = size
        self.regenerate("rows", source.subset(f"{tag}/rows", self.order, rank))
        self.regenerate("signs", source.signs(f"{tag}/signs", (size,)))
        # computed from the declared tensors, so that it is neither saved nor in the digest
        self.register_buffer("kept", self._signed_rows(), persistent=False)

    def forward(self, v: Tensor) -> Tensor:
        """Return the matrix, (r, d)."""
        if self.kept is not None:
            return self.kept * v
        matrix: Tensor = _SignedRows.apply(v * self.signs, self.rows, self.order)
        return matrix

    def _signed_rows(self) -> Tensor | None:
        """Return S H D, (r, d) int8; None for a rank at which it is generated on need."""
        if len(self.rows) > KEPT_ROWS:
            return None
        return (hadamard_rows(self.rows, self.order)[:, : self.size] * self.signs).to(torch.int8)

    def apply_to(self, x: Tensor, v: Tensor) -> Tensor:
        """Return the matrix times x: (..., d) to (..., r)."""
        x = x * (v * self.signs)
        return F.linear(x, self._matrix(x)) if self._few else fwht(x)[..., self.rows]

    def apply_transposed_to(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the transposed matrix times u: (..., r) to (..., d)."""
        x = (
            u @ self._matrix(u)
            if self._few
            else fwht(_spread(u, self.rows, self.order))[..., : self.size]
        )
        return x * (v * self.signs)

    @property
    def _few(self) -> bool:
        return len(self.rows) <= FEW_ROWS

    def _matrix(self, x: Tensor) -> Tensor:
        return hadamard_rows(self.rows, self.order)[:, : self.size].to(x.dtype)


class Fastfood(DeclaredTensors):
    """Two Hadamard transforms around a diagonal v (n,), n = n(d): S_r H diag(v) Pi H/sqrt(n) D."""

    transforms = 2
    rows: Tensor
    signs: Tensor
    permutation: Tensor

    def __init__(self, size: int, rank: int, source: RandomSource, tag: str) -> None:
        super().__init__()
        self.size, self.order = size, next_power_of_two(size)
        self.diagonal_size = self.order
        self.regenerate("rows", source.subset(f"{tag}/rows", self.order, rank))
        self.regenerate("signs", source.signs(f"{tag}/signs", (size,)))
        self.regenerate("permutation", source.permutation(f"{tag}/permutation", self.order))

    def forward(self, v: Tensor) -> Tensor:
        """Return the matrix, (r, d)."""
        rows: Tensor = _SignedRows.apply(v / math.sqrt(self.order), self.rows, self.order)
        return fwht(rows[:, self.permutation])[:, : self.size] * self.signs

    def apply_to(self, x: Tensor, v: Tensor) -> Tensor:
        """Return the matrix times x: (..., d) to (..., r)."""
        inner = fwht(x * self.signs)
        return fwht(inner[..., self.permutation.argsort()] * (v / math.sqrt(self.order)))[
            ..., self.rows
        ]

    def apply_transposed_to(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the transposed matrix times u: (..., r) to (..., d)."""
        inner = fwht(_spread(u, self.rows, self.order)) * (v / math.sqrt(self.order))
        return fwht(inner[..., self.permutation])[..., : self.size] * self.signs


def _spread(u: Tensor, rows: Tensor, order: int) -> Tensor:
    """Return S^T u: u (..., r) at the selected positions of (..., n), zeros elsewhere."""
    return u.new_zeros(*u.shape[:-1], order).index_copy(-1, rows, u)


class _SignedRows(torch.autograd.Function):
    """Rows of H_n, cut to d columns, times diag(v): (r, d).

    The rows are generated in forward and again in backward: autograd would keep (r, d) numbers.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, rows: Tensor, order: int) -> Tensor:
        ctx.order, ctx.size = order, len(v)
        ctx.save_for_backward(rows)
        return hadamard_rows(rows, order)[:, : len(v)] * v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return (gradient * hadamard_rows(rows, ctx.order)[:, : ctx.size]).sum(0), None, None
