"""VeRA: Kopiczko et al., "VeRA: Vector-based Random Matrix Adaptation", ICLR 2024.

arXiv 2310.11454.
"""

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlora.adapters.base import Adapter, along, constant_parameter, cut_to
from rlora.adapters.declared import DeclaredTensors, Site
from rlora.adapters.method import RankedMethod
from rlora.ops.context import compute_dtype, without_autocast
from rlora.ops.fused_linear import flatten_tokens
from rlora.ops.philox import RandomSource
from rlora.ops.thin_products import project


@dataclass(frozen=True)
class VeRA(RankedMethod):
    """Train two scaling vectors around one frozen random pair (equation 2).

        dW = s diag(b) B diag(d) A,   s = alpha / r

    A (r, in) and B (out, r) are sampled once for the whole model, at its largest shapes, and cut to
    each layer. Their entries are uniform with Kaiming's bound sqrt(6 / fan_in). Trained: d (r,),
    which starts at `d_start`, and b (out,), which starts at 0: out + r parameters per layer. The
    paper has no scale: alpha = rank gives s = 1. The rank may exceed min(in, out), as the paper's
    1024 does.

    Args:
        rank: r, at least 1.
        alpha: Numerator of the scale.
        dropout: On the update's input.
        targets: Which layers are adapted.
        d_start: Start value of d (0.1 in the paper).
    """

    d_start: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            not isinstance(self.d_start, int | float)
            or not math.isfinite(self.d_start)
            or self.d_start == 0
        ):
            raise ValueError(
                f"adapter.d_start={self.d_start!r} is invalid: expected a finite number other "
                "than 0, where b would have no gradient"
            )

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Build one shared pair, and two vectors per site."""
        bases = VeRABases(sites, self.rank, source.of("shared"))
        return [VeRALayer(site, self, bases, source) for site in sites]


class VeRABases(DeclaredTensors):
    """The frozen pair that all layers share: A (r, max in) and B (max out, r)."""

    A: Tensor
    B: Tensor

    def __init__(self, sites: Sequence[Site], rank: int, source: RandomSource) -> None:
        super().__init__()
        widest = max(site.in_features for site in sites)
        tallest = max(site.out_features for site in sites)
        self.regenerate("A", source.uniform("A", (rank, widest), math.sqrt(6 / widest)))
        self.regenerate("B", source.uniform("B", (tallest, rank), math.sqrt(6 / rank)))
        self.projections = SharedInput()


class VeRALayer(Adapter):
    """dW = s diag(b) B diag(d) A; b and d are trained."""

    trains_a = False
    per_example = True

    def __init__(self, site: Site, method: VeRA, bases: VeRABases, source: RandomSource) -> None:
        super().__init__(site, method.dropout)
        self.scale = method.scale
        self.bases = bases
        self.d = constant_parameter(source, (method.rank,), method.d_start)
        self.b = constant_parameter(source, (site.out_features,), 0.0)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (diag(b) B diag(d), A)."""
        rank = len(self.d)
        b = cut_to((self.site.out_features, rank), self.bases.B)
        scaled: Tensor = _Scaled.apply(b, self.b, self.d)
        return scaled, self._right(rank)

    def each(self, x: Tensor) -> Tensor:
        """Return s b_e * (B (d_e * (A x_e))), (B, ..., out).

        d and b multiply activations, so that separate ones per example cost no product.
        """
        rank = self.d.shape[-1]
        b, a = cut_to((self.site.out_features, rank), self.bases.B), self._right(rank)
        inner = F.linear(x, a.to(x.dtype)) * along(self.d, x).to(x.dtype)
        return F.linear(inner, b.to(x.dtype)) * (self.scale * along(self.b, x)).to(x.dtype)

    def _right(self, rank: int) -> Tensor:
        return cut_to((rank, self.site.in_features), self.bases.A)

    def projected(self, x: Tensor, a: Tensor) -> Tensor:
        """Return A x, computed once for the layers that read the same x."""
        return self.bases.projections.project(a, x)


class _Scaled(torch.autograd.Function):
    """diag(b) B diag(d) of a frozen B (out, r).

    Autograd would save the product diag(b) B (out, r) in addition; this saves b and d only.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, b: Tensor, d: Tensor) -> Tensor:
        ctx.save_for_backward(matrix, b, d)
        return matrix * b[:, None] * d

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        matrix, b, d = ctx.saved_tensors
        weighted = gradient * matrix
        return None, weighted @ d, b @ weighted


class SharedInput:
    """Keeps A x of the latest x for the layers that read the same x one after the other (q, k, v).

    A is frozen, so that A x needs no graph, and one tensor may serve several layers' backward.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self, _: Any = None) -> None:
        self._x: weakref.ref[Tensor] | None = None
        self._key: Any = None
        self._result: Tensor | None = None

    @torch.no_grad()
    def project(self, a: Tensor, x: Tensor) -> Tensor:
        """Return A x of a frozen A (r, in), without a graph; see `thin_products.project`."""
        dtype = compute_dtype(x)
        # The versions detect changes in place. The key holds A's address and shape, because layers
        # of several widths cut several A from one bank.
        key = (x._version, dtype, a.data_ptr(), a.shape, a._version) if _versioned(x, a) else None
        if key is not None and self._x is not None and self._x() is x and self._key == key:
            assert self._result is not None
            return self._result
        with without_autocast(x):
            result = project(a.to(dtype), flatten_tokens(x).to(dtype))
        if key is not None:
            # A weak reference: the cache must not keep x alive, and A x goes with x.
            self._x = weakref.ref(x, self._forget)
            self._key, self._result = key, result
        return result

    def __getstate__(self) -> dict[str, Any]:
        # weak references can be neither copied nor pickled; a copy starts empty
        return {"_x": None, "_key": None, "_result": None}


def _versioned(*tensors: Tensor) -> bool:
    """Return whether changes in place are counted; those of inference-mode tensors are not."""
    return not any(tensor.is_inference() for tensor in tensors)
