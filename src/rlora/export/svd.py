"""Updates of full rank cut to a few singular values."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rlora.adapters import Adapter


@dataclass(frozen=True)
class Cut:
    """A truncated update.

    Attributes:
        b: B (out, r).
        a: A (r, in), with dW ~ B A.
        kept: Share of |dW|^2 that B A has, by Eckart and Young the most of any rank r; 1 for dW = 0.
    """

    b: Tensor
    a: Tensor
    kept: float


@torch.no_grad()
def cut(update: Adapter, rank: int) -> Cut:
    """Truncate dW = U S V^T to its largest singular values: B = U_r sqrt(S_r), A = sqrt(S_r) V_r^T.

    Args:
        update: One layer's.
        rank: r, cut to min(out, in).
    """
    u, s, v = torch.linalg.svd(update.delta().double(), full_matrices=False)
    energy, root = s.square(), s[:rank].sqrt()
    kept = float(energy[:rank].sum() / energy.sum()) if energy.any() else 1.0
    return Cut((u[:, :rank] * root).float(), (root[:, None] * v[:rank]).float(), kept)


def energy_kept(cuts: Mapping[str, Cut], updates: Mapping[str, Adapter]) -> float:
    """Share of the sum of all |dW|^2 that is kept."""
    norms = {name: float(updates[name].delta().detach().square().sum()) for name in cuts}
    total = sum(norms.values())
    return sum(cuts[name].kept * norm for name, norm in norms.items()) / total if total else 1.0
