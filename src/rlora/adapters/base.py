"""What an adapter is: a method (its hyperparameters) makes one update dW for every adapted linear layer.

Notation: a frozen layer computes y = W x + c with W of shape (out, in); adapted it computes y = (W + dW) x + c, and
dW = 0 at the start, exactly. A new method is one file with two classes: a frozen dataclass deriving from `Method` or
`RankedMethod`, whose fields are its options, and an `Adapter` that gives `factors()` or `delta()`; all the rest,
the fast paths included, follows from these.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlora.adapters.dispatch import ComputePath, cheapest_path, low_rank_costs
from rlora.ops.context import compute_dtype
from rlora.ops.fused_linear import full_rank_linear, low_rank_linear
from rlora.ops.philox import RandomSource

Targets = str | Sequence[str]


@dataclass(frozen=True)
class Site:
    """Where an update goes: one linear layer, or one row block of a fused projection.

    Args:
        name: Stable name, independent of the head around the backbone; it also names the layer's random draws.
        out_features: Rows of dW.
        in_features: Columns of dW.
    """

    name: str
    out_features: int
    in_features: int


class Regenerated(nn.Module):
    """A module that declares which of its tensors come back from the seed, so that no file need hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.regenerated: list[str] = []

    def regenerate(self, name: str, tensor: Tensor) -> None:
        """Register `tensor`, drawn from the seed, as a buffer that no checkpoint stores and the digest covers."""
        self.register_buffer(name, tensor, persistent=False)
        self.regenerated.append(name)


class Adapter(Regenerated, ABC):
    """One linear layer's update dW of shape (out, in); every parameter it holds is trained.

    A subclass gives `factors()` where dW has them, else `delta()`.

    Args:
        site: The layer's shape and name.
        dropout: Probability with which an input feature is dropped on its way to the update.
    """

    per_example = False  # whether `each` exists: parameters (B, size), each example's own, may stand in for (size,)
    scale = 1.0  # s, in front of the factors
    trains_a = True  # whether the right one of the factors depends on what trains

    def __init__(self, site: Site, dropout: float = 0.0) -> None:
        super().__init__()
        self.site = site
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    @property
    def drops(self) -> bool:
        """Whether dropout acts on the input at present."""
        return self.training and not isinstance(self.dropout, nn.Identity)

    @property
    def batched(self) -> bool:
        """Whether every example has parameters of its own at present."""
        return self.per_example and any(
            p is not None and p.dim() > 1 for p in self._parameters.values()
        )

    def each(self, x: Tensor) -> Tensor:
        """Apply each example's own update: (B, ..., in) to (B, ..., out), its parameters being (B, size)."""
        raise NotImplementedError(f"{type(self).__name__} has one update for all examples")

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """(B, A) of shapes (out, r) and (r, in) with dW = scale B A; None where dW has full rank."""
        return None

    def delta(self) -> Tensor:
        """The update dW, (out, in)."""
        factors = self.factors()
        if factors is None:
            raise RuntimeError(f"{type(self).__name__} gives neither factors() nor delta()")
        return self.scale * (factors[0] @ factors[1])

    def forward(self, x: Tensor) -> Tensor:
        """Apply the update: (..., in) to (..., out), in x's dtype; the parameters stay in float32."""
        x = self.dropout(x)
        if self.batched:
            return self.each(x)
        factors = self.factors()
        if factors is None:
            return F.linear(x, self.delta().to(x.dtype))
        b, a = factors
        return self.scale * F.linear(F.linear(x, a.to(x.dtype)), b.to(x.dtype))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute (W + dW) x + c as one function, by the cheapest path; without dropout.

        Args:
            x: (..., in).
            weight: W (out, in), frozen.
            bias: c (out,) or None.
        """
        factors = self.factors()
        if factors is None:
            return full_rank_linear(x, weight, bias, self.delta())
        b, a = factors
        path = cheapest_path(self.costs(x, len(a)))
        if path is ComputePath.FULL:
            delta, again = self.scale * (b @ a), lambda: self.scale * (b.detach() @ a.detach())
            return full_rank_linear(x, weight, bias, delta, recompute_delta=again)
        return low_rank_linear(
            x,
            weight,
            bias,
            b,
            a,
            self.scale,
            projected=self.projected(x, a),
            merge_forward=path in (ComputePath.MERGED, ComputePath.MERGED_FORWARD),
            merge_backward=path in (ComputePath.MERGED, ComputePath.MERGED_BACKWARD),
        )

    def costs(self, x: Tensor, rank: int) -> dict[ComputePath, float]:
        """What each path of `linear` costs for this input."""
        tokens = x.numel() // self.site.in_features
        site, dtype = self.site, compute_dtype(x)
        return low_rank_costs(
            tokens, site.in_features, site.out_features, rank, dtype=dtype, trains_a=self.trains_a
        )

    def projected(self, x: Tensor, a: Tensor) -> Tensor | None:
        """A x as `rlora.ops.thin_products.project` gives it, where layers that read the same x share it; else None."""
        return None


class Method(ABC):
    """A way to fine-tune: its hyperparameters, and how it makes one update a layer.

    Fields of the subclass are the options a config may set. `targets` says which layers are adapted: a list of name
    suffixes or of the family's roles (q, k, v, o, fc1, fc2, ...), a regular expression, or "all-linear".
    """

    targets: Targets | None = None  # None: no layer gets an update

    @abstractmethod
    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Make the updates of all sites, in their order; what layers share is made once here."""

    def inject(self, model: nn.Module, *, seed: int, head: Sequence[str]) -> Any:
        """Put updates in by a way of the method's own, giving an `AdapterSet`; None: by that of `inject`."""
        return None

    def trained_in_backbone(self, model: nn.Module) -> Iterable[str]:
        """Names of the backbone's own parameters that this method trains in place; by default none."""
        return ()


@dataclass(frozen=True)
class RankedMethod(Method):
    """The options all low-rank methods share.

    Args:
        rank: r, at least 1.
        alpha: Numerator of the scale of dW, above 0.
        dropout: Probability in [0, 1) with which an input feature is dropped on its way to the update.
        targets: Which layers are adapted, see `Method`.

    Raises:
        ValueError: an option is out of its range.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: Targets = field(default=("q", "v"))

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"adapter.rank={self.rank!r} must be a whole number of at least 1")
        if not (
            isinstance(self.alpha, int | float) and math.isfinite(self.alpha) and self.alpha > 0
        ):
            raise ValueError(f"adapter.alpha={self.alpha!r} must be a finite number above 0")
        if not (isinstance(self.dropout, int | float) and 0 <= self.dropout < 1):
            raise ValueError(f"adapter.dropout={self.dropout!r} must lie in [0, 1)")

    @property
    def scale(self) -> float:
        """The scale s = alpha / r of dW."""
        return self.alpha / self.rank

    def check_rank(self, sites: Sequence[Site]) -> None:
        """Refuse a rank no adapted layer could use.

        Raises:
            ValueError: the rank exceeds min(in, out) of some layer.
        """
        tightest = min(sites, key=lambda site: min(site.in_features, site.out_features))
        limit = min(tightest.in_features, tightest.out_features)
        if self.rank > limit:
            raise ValueError(
                f"adapter.rank={self.rank} is above min(in, out) = {limit} of {tightest.name}: set it to 1..{limit}"
            )


def along(parameter: Tensor, x: Tensor) -> Tensor:
    """(B, size) as (B, 1, ..., size), to multiply x (B, ..., size); (size,) as it is."""
    return (
        parameter
        if parameter.dim() == 1
        else parameter.view(len(parameter), *[1] * (x.dim() - 2), -1)
    )


def require_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a value outside the allowed words, naming the config key.

    Raises:
        ValueError: `value` is not one of `allowed`.
    """
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{key}={value!r} is unknown: choose one of {', '.join(allowed)}")


def cut_to(shape: Sequence[int], bank: Tensor) -> Tensor:
    """The leading block of a bank that layers of several shapes share."""
    return bank[tuple(slice(size) for size in shape)]


def uniform_parameter(
    source: RandomSource, tag: str, shape: Sequence[int], bound: float
) -> nn.Parameter:
    """A trained tensor that starts uniform on (-bound, bound)."""
    return nn.Parameter(source.uniform(tag, shape, bound))


def constant_parameter(source: RandomSource, shape: Sequence[int], value: float) -> nn.Parameter:
    """A trained tensor that starts at one value everywhere."""
    return nn.Parameter(torch.full(tuple(shape), value, dtype=torch.float32, device=source.device))
