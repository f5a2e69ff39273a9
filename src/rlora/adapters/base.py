"""One linear layer's update dW, from `factors()` or `delta()` alone, and tools to write one.

Notation: a frozen layer computes y = W x + c with W of shape (out, in). The adapted layer computes
y = (W + dW) x + c, and dW = 0 at the start, exactly. Compute paths, merging, files and reports
follow from the update; `rlora.adapters.method` holds its counterpart, the options.
"""

from abc import ABC
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlora.adapters.declared import DeclaredTensors, Site
from rlora.adapters.dispatch import ComputePath, cheapest_path, low_rank_costs
from rlora.ops.context import compute_dtype
from rlora.ops.fused_linear import full_rank_linear, low_rank_linear
from rlora.ops.philox import RandomSource


class Adapter(DeclaredTensors, ABC):
    """One linear layer's update dW of shape (out, in); every parameter it holds is trained.

    A subclass defines `factors()` if dW has them, else `delta()`.

    Args:
        site: The layer's name, shape and frozen weight.
        dropout: Probability with which an input feature of the update is dropped.
    """

    per_example = False  # whether `each` accepts parameters (B, size), one set per example
    scale = 1.0  # s, the factor in front of B A
    trains_a = True  # whether A depends on a trained parameter
    shared: DeclaredTensors | None = None  # the model-level module, see `share`

    def __init__(self, site: Site, dropout: float = 0.0) -> None:
        super().__init__()
        self.site = site
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def share(self, module: DeclaredTensors) -> None:
        """Use a module that belongs to the whole model, such as one trained vector for all layers.

        `inject` registers the module on the model once. It is not a submodule of the layer:
        otherwise its parameters would count, be saved and be moved once per layer.
        """
        self.__dict__["shared"] = module  # bypasses nn.Module.__setattr__, which would register it

    @property
    def drops(self) -> bool:
        """Whether dropout is active on the update's input."""
        return self.training and not isinstance(self.dropout, nn.Identity)

    @property
    def batched(self) -> bool:
        """Whether the parameters currently hold one set per example."""
        return self.per_example and any(
            p is not None and p.dim() > 1 for p in self._parameters.values()
        )

    def each(self, x: Tensor) -> Tensor:
        """Apply each example's own update, of parameters (B, size), to x (B, ..., in)."""
        raise NotImplementedError(f"{type(self).__name__} has one update for all examples")

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Return B (out, r) and A (r, in) with dW = scale B A; None if dW has full rank."""
        return None

    def delta(self) -> Tensor:
        """Return the update dW, (out, in)."""
        factors = self.factors()
        if factors is None:
            raise RuntimeError(f"{type(self).__name__} defines neither factors() nor delta()")
        return self.scale * (factors[0] @ factors[1])

    def forward(self, x: Tensor) -> Tensor:
        """Apply the update, (..., in) to (..., out), in x's dtype; parameters stay in float32."""
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
        path = cheapest_path(self.costs(x, len(factors[1])))
        return self.linear_by(path, factors, x, weight, bias)

    def linear_by(
        self,
        path: ComputePath,
        factors: tuple[Tensor, Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        """Compute `linear` from the factors (B, A) by a given path."""
        b, a = factors
        if path is ComputePath.FULL:
            # backward recomputes dW from the detached factors, so that W + dW is not kept between
            # the passes
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
        """Return what each path of `linear` costs for this input."""
        tokens = x.numel() // self.site.in_features
        site, dtype = self.site, compute_dtype(x)
        return low_rank_costs(
            tokens, site.in_features, site.out_features, rank, dtype=dtype, trains_a=self.trains_a
        )

    def projected(self, x: Tensor, a: Tensor) -> Tensor | None:
        """Return A x if layers that read the same x share it, else None.

        Its layout is that of `rlora.ops.thin_products.project`.
        """
        return None


def along(parameter: Tensor, x: Tensor) -> Tensor:
    """Return a parameter (B, size) as (B, 1, ..., size), to multiply x (B, ..., size).

    A parameter (size,) is unchanged.
    """
    return (
        parameter
        if parameter.dim() == 1
        else parameter.view(len(parameter), *[1] * (x.dim() - 2), -1)
    )


def cut_to(shape: Sequence[int], bank: Tensor) -> Tensor:
    """Return the leading block of a bank that layers of several shapes share."""
    return bank[tuple(slice(size) for size in shape)]


def uniform_parameter(
    source: RandomSource, tag: str, shape: Sequence[int], bound: float
) -> nn.Parameter:
    """Return a trained tensor that starts uniform on (-bound, bound)."""
    return nn.Parameter(source.uniform(tag, shape, bound))


def constant_parameter(source: RandomSource, shape: Sequence[int], value: float) -> nn.Parameter:
    """Return a trained tensor that starts at one value everywhere."""
    return nn.Parameter(torch.full(tuple(shape), value, dtype=torch.float32, device=source.device))
