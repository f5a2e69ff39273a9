"""DoRA: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024, arXiv 2402.09353."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlora.adapters.adapter_set import AdapterSet
from rlora.adapters.base import Adapter, constant_parameter, uniform_parameter
from rlora.adapters.declared import Site
from rlora.adapters.linear import AdaptedLinear
from rlora.adapters.method import PeftFiles, RankedMethod
from rlora.adapters.peft.files import PREFIX
from rlora.ops.philox import RandomSource


@dataclass(frozen=True)
class DoRA(RankedMethod):
    """Train magnitude and direction of W separately (equation 5).

        W' = diag(m / |V|) V,   V = W + s B A,   s = alpha / r

    |V| (out,) holds the norms of V's rows, one per output feature. Trained: A (r, in) and B (out,
    r), which start as in LoRA, and m (out,), which starts at |W|: r (in + out) + out parameters per
    layer. The update is

        dW = W' - W = (m / |V| - 1) W + (m / |V|) s B A

    so that dW = 0 at the start, exactly. No gradient flows through |V| (section 4.3). Dropout acts
    on the input of the whole of dW, the first term included.

    Args:
        rank: r, in 1..min(in, out).
        alpha: Numerator of the scale s = alpha / r.
        dropout: On the update's input.
        targets: Which layers are adapted.
    """

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Build one pair of factors and one vector of magnitudes per site."""
        self.check_rank(sites)
        return [DoRALayer(site, self, source.of(site.name)) for site in sites]

    def to_peft(self, adapters: AdapterSet) -> PeftFiles:
        """Return a PEFT LoRA with `use_dora`.

        Raises:
            ValueError: PEFT has no DoRA of a row block.
        """
        tensors: dict[str, Tensor] = {}
        for name, layer in adapters.layers.items():
            assert isinstance(layer, AdaptedLinear)
            if layer.rows != [(0, layer.out_features)]:
                raise ValueError(
                    f"{name} is adapted in parts, which PEFT's DoRA cannot represent: use "
                    "--format merged or --rank"
                )
            update = layer.adapters()[0]
            assert isinstance(update, DoRALayer)
            tensors[f"{PREFIX}{name}.lora_A.weight"] = update.A.detach().contiguous()
            tensors[f"{PREFIX}{name}.lora_B.weight"] = update.B.detach().contiguous()
            tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = update.m.detach().contiguous()
        config = {
            "peft_type": "LORA",
            "use_dora": True,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "fan_in_fan_out": any(
                isinstance(layer, AdaptedLinear) and layer.transposed
                for layer in adapters.layers.values()
            ),
            "bias": "none",
        }
        return PeftFiles(config, tensors)


class DoRALayer(Adapter):
    """dW = (m / |V| - 1) W + (m / |V|) s B A; m (out,), B (out, r) and A (r, in) are trained."""

    def __init__(self, site: Site, method: DoRA, source: RandomSource) -> None:
        super().__init__(site, method.dropout)
        self.scale = method.scale
        bound = 1 / math.sqrt(site.in_features)
        self.A = uniform_parameter(source, "A", (method.rank, site.in_features), bound)
        self.B = constant_parameter(source, (site.out_features, method.rank), 0.0)
        weight = site.weight()
        self.m = (
            constant_parameter(source, (site.out_features,), 1.0)  # meta device: the shape only
            if weight is None
            else nn.Parameter(row_norms(weight).to(source.device))
        )

    def delta(self) -> Tensor:
        """Return the update dW, (out, in); W is read from the layer, not copied."""
        weight = self.site.weight()
        if weight is None:
            raise RuntimeError(f"DoRA needs the weight of {self.site.name}: it has none")
        change = self.scale * (self.B @ self.A)
        # |V| is a constant to autograd, as in section 4.3 of the paper
        ratio = self.m / row_norms(weight + change.detach())
        return (ratio - 1)[:, None] * weight + ratio[:, None] * change


def row_norms(matrix: Tensor) -> Tensor:
    """Return the Euclidean norm of each row, (out,), above 0.

    Summed in float64 and rounded once: m, computed on one machine, then equals |V| at the start on
    every other.
    """
    norms = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64).to(matrix.dtype)
    return norms.clamp_min(torch.finfo(matrix.dtype).tiny)  # a row of zeros stays one
