"""LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.

arXiv 2106.09685.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rlora.adapters.base import Adapter, constant_parameter, uniform_parameter
from rlora.adapters.declared import Site
from rlora.adapters.method import RankedMethod
from rlora.ops.philox import RandomSource


@dataclass(frozen=True)
class LoRA(RankedMethod):
    """Train a pair of low-rank factors: dW = s B A.

    A (r, in) starts uniform on (-1/sqrt(in), 1/sqrt(in)), B (out, r) starts at 0. Both train:
    r (in + out) parameters per layer. s = alpha / r (section 4.1), or alpha / sqrt(r) with
    `rank_stabilized` (Kalajdzievski 2023, arXiv 2312.03732).

    Args:
        rank: r, in 1..min(in, out).
        alpha: Numerator of the scale.
        dropout: On the update's input.
        targets: Which layers are adapted.
        rank_stabilized: Divide alpha by sqrt(r) instead of r.
    """

    rank_stabilized: bool = False

    @property
    def scale(self) -> float:
        """The scale s = alpha / r, or alpha / sqrt(r)."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Build one pair of factors per site."""
        self.check_rank(sites)
        return [LoRALayer(site, self, source.of(site.name)) for site in sites]


class LoRALayer(Adapter):
    """dW = s B A with A (r, in) and B (out, r) trained."""

    def __init__(self, site: Site, method: LoRA, source: RandomSource) -> None:
        super().__init__(site, method.dropout)
        self.scale = method.scale
        self.A = uniform_parameter(
            source, "A", (method.rank, site.in_features), 1 / math.sqrt(site.in_features)
        )
        self.B = constant_parameter(source, (site.out_features, method.rank), 0.0)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (B, A)."""
        return self.B, self.A
