"""LoRA-XS: Banaei et al., "LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters".

2024, arXiv 2405.17604.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlora.adapters.base import Adapter, constant_parameter
from rlora.adapters.declared import Site
from rlora.adapters.method import RankedMethod
from rlora.ops.philox import RandomSource


@dataclass(frozen=True)
class LoRAXS(RankedMethod):
    """Train a small square matrix between frozen factors of W (section 3).

        dW = s B R A,   s = alpha / r

    With W = U S V^T, the factors are B = U_r S_r (out, r) and A = V_r^T (r, in): those of the r
    largest singular values. They are derived from W and saved with R, because an SVD has free
    signs. Trained: R (r, r), r^2 parameters per layer. R starts at 0 (the paper: normal with
    standard deviation 1e-5), so that dW = 0 exactly; its gradient B^T G A^T is not 0.

    Args:
        rank: r, in 1..min(in, out).
        alpha: Numerator of the scale.
        dropout: On the update's input.
        targets: Which layers are adapted.
    """

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Build one matrix R per site, and one SVD."""
        self.check_rank(sites)
        return [LoRAXSLayer(site, self, source) for site in sites]


class LoRAXSLayer(Adapter):
    """dW = s B R A; R (r, r) is trained."""

    trains_a = False
    A: Tensor
    B: Tensor

    def __init__(self, site: Site, method: LoRAXS, source: RandomSource) -> None:
        super().__init__(site, method.dropout)
        self.scale = method.scale
        b, a = principal_factors(site, method.rank, source)
        self.derive("B", b)
        self.derive("A", a)
        self.R = constant_parameter(source, (method.rank, method.rank), 0.0)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (B R, A)."""
        return self.B @ self.R, self.A


def principal_factors(site: Site, rank: int, source: RandomSource) -> tuple[Tensor, Tensor]:
    """Return U_r S_r (out, r) and V_r^T (r, in) of the r largest singular values of W."""
    weight = site.weight()
    if weight is None:  # meta device: the shapes only
        b = torch.empty(site.out_features, rank, device=source.device)
        return b, torch.empty(rank, site.in_features, device=source.device)
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    # copies: slices would keep all singular vectors alive
    b, a = (u[:, :rank] * s[:rank]).float(), v[:rank].float().clone()
    return b.to(source.device), a.to(source.device)
