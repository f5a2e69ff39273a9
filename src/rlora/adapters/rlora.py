"""RLoRA: both LoRA factors are randomized Walsh-Hadamard transforms whose diagonals are learnt.

Lei, Qian and Cheung, "Fast Randomized Low-Rank Adaptation of Pre-trained Language Models with PAC Regularization",
Findings of ACL 2024, 5236-5249. Only its abstract was at hand: a randomized Walsh-Hadamard transform takes the place of
LoRA's pair of trained projections and cuts the trained parameters. Which diagonal trains, its start and its scale are
this project's reading, after the subsampled randomized Hadamard transform (Ailon and Chazelle, STOC 2006) and Fastfood
(Le, Sarlos and Smola, ICML 2013).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rlora.adapters.base import (
    Adapter,
    RankedMethod,
    Regenerated,
    Site,
    constant_parameter,
    require_choice,
    uniform_parameter,
)
from rlora.ops.hadamard import fwht, hadamard_rows, next_power_of_two
from rlora.ops.random import RandomSource

TRANSFORMS = ("srht", "fastfood")


@dataclass(frozen=True)
class RLoRA(RankedMethod):
    """Train the diagonals of two randomized Walsh-Hadamard transforms: dW = s B diag(g) A, s = alpha / r.

    With H the Hadamard matrix of +-1 of order n(d), the power of two at or above d; S_r, S'_r its r rows drawn without
    replacement; D, D' random signs; Pi, Pi' random permutations (all from the seed, none stored):

        srht      A = S_r H diag(a) D                 (r, in)    B = (S'_r H diag(b) D')^T                  (out, r)
        fastfood  A = S_r H diag(a) Pi H/sqrt(n) D    (r, in)    B = (S'_r H diag(b) Pi' H/sqrt(n) D')^T    (out, r)

    cut to the first `in` (for B: `out`) columns. Trained: a and b, one number a feature (fastfood: n(in) and n(out)),
    whatever the rank, and g (r,) with `core`. Start: a uniform on (-1/sqrt(in), 1/sqrt(in)), so that A's entries have
    LoRA's variance 1/(3 in); b = 0; g = 1. The second transform is orthonormal, so that one learning rate fits both.

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
        """Two transforms a site."""
        self.check_rank(sites)
        return [RLoRALayer(site, self, source.of(site.name)) for site in sites]


class RLoRALayer(Adapter):
    """dW = s B diag(g) A; a, b and, with a core, g are trained."""

    def __init__(self, site: Site, method: RLoRA, source: RandomSource) -> None:
        super().__init__(site, method.dropout)
        self.scale = method.scale
        transform = SRHT if method.transform == "srht" else Fastfood
        self.right = transform(site.in_features, method.rank, source, "A")
        self.left = transform(site.out_features, method.rank, source, "B")
        self.a = uniform_parameter(source, "a", (self.right.diagonal_size,), 1 / math.sqrt(site.in_features))
        self.b = constant_parameter(source, (self.left.diagonal_size,), 0.0)
        self.g = constant_parameter(source, (method.rank,), 1.0) if method.core else None

    def factors(self) -> tuple[Tensor, Tensor]:
        """(s B diag(g), A)."""
        left, right = self.left(self.b).mT, self.right(self.a)
        return self.scale * (left if self.g is None else left * self.g), right


class SRHT(Regenerated):
    """Subsampled randomized Hadamard transform: diagonal (d,) to the matrix S_r H diag(.) D of shape (r, d)."""

    rows: Tensor
    signs: Tensor

    def __init__(self, size: int, rank: int, source: RandomSource, tag: str) -> None:
        super().__init__()
        self.size, self.order = size, next_power_of_two(size)
        self.diagonal_size = size
        self.regenerate("rows", source.subset(f"{tag}/rows", self.order, rank))
        self.regenerate("signs", source.signs(f"{tag}/signs", (size,)))

    def forward(self, diagonal: Tensor) -> Tensor:
        """The (r, d) matrix of a diagonal."""
        return hadamard_rows(self.rows, self.order)[:, : self.size] * (diagonal * self.signs)


class Fastfood(Regenerated):
    """Two Hadamard transforms around the diagonal: (n,) to S_r H diag(.) Pi H/sqrt(n) D of shape (r, d), n = n(d)."""

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

    def forward(self, diagonal: Tensor) -> Tensor:
        """The (r, d) matrix of a diagonal."""
        rows = hadamard_rows(self.rows, self.order) * (diagonal / math.sqrt(self.order))
        return fwht(rows[:, self.permutation])[:, : self.size] * self.signs
