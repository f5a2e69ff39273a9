"""RandLoRA: Albert et al., "RandLoRA: Full-rank parameter-efficient fine-tuning", ICLR 2025.

arXiv 2502.00987.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from rlora.adapters.adapter_set import AdapterSet, MergeableLayer
from rlora.adapters.base import Adapter, constant_parameter, cut_to
from rlora.adapters.declared import DeclaredTensors, Site
from rlora.adapters.linear import AdaptedLinear
from rlora.adapters.method import PeftFiles, RankedMethod, require_choice
from rlora.adapters.peft.files import BANK, PREFIX
from rlora.ops.linear_layers import is_transposed
from rlora.ops.philox import RandomSource
from rlora.ops.random_sum import RandomSum, RandomSumLinear

BASES = ("uniform", "normal", "binary", "sparse", "very_sparse")
SCALINGS = ("alpha/r", "alpha/(r sqrt(n))")


@dataclass(frozen=True)
class RandLoRA(RankedMethod):
    """Train the coefficients of a full-rank sum of random low-rank products (equation 3).

        dW = s sum_{j=1..n} B_j diag(lambda_j) A diag(gamma_j)
        n = ceil(m / r),   m = min(in, out),   M = max(in, out)

    for out >= in, and its transpose otherwise. A (r, m) and the B_j (M, r) are frozen, of unit
    standard deviation, one set for the whole model, cut to each layer. Trained: lambda (n, r),
    which starts at 0, and gamma (n, m), which starts at 1/m: n (r + m) parameters per layer, fewer
    as r grows.

    Args:
        rank: r, in 1..min(in, out).
        alpha: Numerator of the scale.
        dropout: On the update's input.
        targets: Which layers are adapted.
        basis: Distribution of the entries of A and B: "uniform", "normal", "binary" (signs),
            "sparse" (a third nonzero) or "very_sparse" (one in sqrt(m)), each of unit standard
            deviation. A sparse A with few rows can have columns of zeros, which dW then has too.
        scaling: s = "alpha/r" (as in PEFT, where alpha = 20 r) or "alpha/(r sqrt(n))" (the paper's
            code, alpha = 2 r).
        keep_delta: Keep W + dW from forward to backward (out in numbers per layer) instead of
            recomputing it there (M m^2 multiply-adds per layer); None keeps it for square layers
            only.
    """

    basis: str = "uniform"
    scaling: str = "alpha/r"
    keep_delta: bool | None = field(default=None, metadata={"affects_weights": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("adapter.basis", self.basis, BASES)
        require_choice("adapter.scaling", self.scaling, SCALINGS)
        if self.keep_delta not in (None, True, False):
            raise ValueError(
                f"adapter.keep_delta={self.keep_delta!r} is invalid: expected true, false or null"
            )

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Build one shared set of bases, and two coefficient matrices per site."""
        self.check_rank(sites)
        bases = RandLoRABases(sites, self, source.of("shared"))
        return [RandLoRALayer(site, self, bases, source) for site in sites]

    def to_peft(self, adapters: AdapterSet) -> PeftFiles:
        """Return PEFT's RandLoRA with the same updates, its projections included.

        PEFT flattens A's rows as (r, n) and B's columns as (n, r), and multiplies one by the other:
        column p of B_j must be at position p n + j. That is a permutation of B, the same for all
        layers of one n.

        Raises:
            ValueError: PEFT has no row blocks of a fused layer, and one n for the whole model.
        """
        updates = {name: _whole(name, layer) for name, layer in adapters.layers.items()}
        first = next(iter(updates.values()))
        products = len(first.lambda_)
        if odd := [name for name, update in updates.items() if len(update.lambda_) != products]:
            raise ValueError(
                f"{odd[0]} has {len(updates[odd[0]].lambda_)} products of bases and others "
                f"{products}, which PEFT pairs otherwise: use --format merged or --rank"
            )
        tensors = _peft_banks(first, list(updates.values()))
        for name, update in updates.items():
            lambda_, gamma = update.lambda_.detach(), update.gamma.detach()
            tensors[f"{PREFIX}{name}.randlora_lambda"] = lambda_.t().contiguous()
            tensors[f"{PREFIX}{name}.randlora_gamma"] = gamma.contiguous()
        config = {
            "peft_type": "RANDLORA",
            "r": self.rank,
            "randlora_alpha": first.scale * self.rank,
            "randlora_dropout": self.dropout,
            "save_projection": True,
            "projection_prng_key": 0,  # unused: the file holds the projections
            "fan_in_fan_out": all(is_transposed(layer.base) for layer in adapters.layers.values()),
            "bias": "none",
        }
        return PeftFiles(config, tensors)


def shape_of(site: Site, rank: int) -> tuple[int, int, int]:
    """Return (M, m, n): larger side, smaller side, and the number of products for full rank."""
    large = max(site.out_features, site.in_features)
    small = min(site.out_features, site.in_features)
    return large, small, math.ceil(small / rank)


class RandLoRABases(DeclaredTensors):
    """The frozen bases that all layers share: A (r, max m) and B (max M, max n, r)."""

    A: Tensor
    B: Tensor

    def __init__(self, sites: Sequence[Site], method: RandLoRA, source: RandomSource) -> None:
        super().__init__()
        shapes = [shape_of(site, method.rank) for site in sites]
        large, small, products = (max(sizes) for sizes in zip(*shapes, strict=True))
        self.regenerate("A", draw_basis(source, "A", (method.rank, small), method.basis, small))
        self.regenerate(
            "B", draw_basis(source, "B", (large, products, method.rank), method.basis, small)
        )


def draw_basis(source: RandomSource, tag: str, shape: Sequence[int], law: str, m: int) -> Tensor:
    """Return independent entries of mean 0 and standard deviation 1 from a law of `BASES`."""
    if law == "uniform":
        return source.uniform(tag, shape, math.sqrt(3))
    if law == "normal":
        return source.normal(tag, shape)
    if law == "binary":
        return source.signs(tag, shape)
    density = 1 / 3 if law == "sparse" else 1 / math.sqrt(m)
    return source.sparse_signs(tag, shape, density) / math.sqrt(density)


class RandLoRALayer(Adapter):
    """dW = s sum_j B_j diag(lambda_j) A diag(gamma_j); lambda and gamma are trained."""

    def __init__(
        self, site: Site, method: RandLoRA, bases: RandLoRABases, source: RandomSource
    ) -> None:
        super().__init__(site, method.dropout)
        large, small, products = shape_of(site, method.rank)
        self.transposed = site.out_features < site.in_features
        self.scale = method.scale / (1.0 if method.scaling == "alpha/r" else math.sqrt(products))
        self.large, self.small = large, small
        self.keep_delta = method.keep_delta
        self.bases = bases
        self.lambda_ = constant_parameter(source, (products, method.rank), 0.0)
        self.gamma = constant_parameter(source, (products, small), 1 / small)

    def delta(self) -> Tensor:
        """Return the sum as one product of [B_j]_j (M, n r) and [lambda_j A gamma_j]_j (n r, m)."""
        delta: Tensor = RandomSum.apply(self.lambda_, self.gamma, *self._bases(), self.scale)
        return delta.mT if self.transposed else delta

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply once by W + dW; `rlora.ops.random_sum` says which tensors backward keeps."""
        # by default a square layer keeps W + dW: recomputing it costs most there, M m^2
        # multiply-adds
        keep = self.large == self.small if self.keep_delta is None else self.keep_delta
        y: Tensor = RandomSumLinear.apply(
            x, weight, bias, self.lambda_, self.gamma, *self._bases(), self.scale, keep
        )
        return y

    def _bases(self) -> tuple[Tensor, Tensor]:
        """Return A (r, m) and [B_j]_j (M, n r), cut to this layer's shape."""
        products, rank = self.lambda_.shape
        b = cut_to((self.large, products, rank), self.bases.B)
        return cut_to((rank, self.small), self.bases.A), b.flatten(1)


def _peft_banks(first: RandLoRALayer, updates: list[RandLoRALayer]) -> dict[str, Tensor]:
    """Return A and the permuted B, padded with zeros to PEFT's sizes.

    PEFT takes the maxima of rows and of columns over different layers.
    """
    tallest = max(update.site.out_features for update in updates)
    widest = max(update.site.in_features for update in updates)
    small, large = sorted((tallest, widest))
    a, b = first.bases.A, first.bases.B
    products, rank = b.shape[1:]
    left = b.new_zeros(large, math.ceil(small / rank), rank)
    left[: len(b), :products] = b.transpose(1, 2).reshape(b.shape)
    right = a.new_zeros(rank, 1, small)
    right[:, 0, : a.shape[1]] = a
    return {f"{BANK}randlora_A": right, f"{BANK}randlora_B": left}


def _whole(name: str, layer: MergeableLayer) -> RandLoRALayer:
    """Return the one update of a layer that is adapted as a whole."""
    assert isinstance(layer, AdaptedLinear)
    if layer.rows != [(0, layer.out_features)]:
        raise ValueError(
            f"{name} is adapted in parts, which PEFT's RandLoRA cannot represent: use --format "
            "merged or --rank"
        )
    update = layer.adapters()[0]
    assert isinstance(update, RandLoRALayer)
    return update
