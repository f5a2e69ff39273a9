"""The adapted layer y = x (W + dW)^T + c as one autograd function that saves little for backward.

Plain autograd on `F.linear(x, W) + s * F.linear(F.linear(x, A), B)` saves every intermediate that
a gradient might need. W and c are frozen here, so nothing computes their gradients and less is
saved. Under autocast the products run in autocast's dtype; the factors and their gradients stay
in their own dtype (float32).

Notation: T tokens (all leading dimensions of x together), r the rank, g the gradient of y.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlora.ops.context import compute_dtype, without_autocast
from rlora.ops.thin_products import by_token, contract, project


def low_rank_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    b: Tensor,
    a: Tensor,
    scale: float,
    *,
    projected: Tensor | None,
    merge_forward: bool,
    merge_backward: bool,
) -> Tensor:
    """Compute y = x (W + s B A)^T + c.

    Saved for backward, besides W, B and A themselves:

        A trains     x (T, in) and A x (r, T)
        A frozen     A x (r, T); also W + s B A (out, in) if both directions are merged

    Args:
        x: (..., in).
        weight: W (out, in), frozen.
        bias: c (out,), frozen, or None.
        b: B (out, r).
        a: A (r, in).
        scale: s.
        projected: `project(A, x)` if the caller has computed it already; only for a frozen A.
        merge_forward: Compute x (W + s B A)^T with one large product instead of adding B (A x) to
            W x. Only for W in full precision: in half precision the sum would lose small updates.
        merge_backward: The same choice for the gradient of x.

    Returns:
        (..., out) in the compute dtype.
    """
    # Inside `forward` autograd is always off, and `needs_input_grad` ignores `torch.no_grad()`.
    # So whether a backward can follow is only known here.
    grad_enabled = torch.is_grad_enabled()
    merge = (merge_forward, merge_backward)
    y: Tensor = _LowRankLinear.apply(x, weight, bias, b, a, scale, projected, merge, grad_enabled)
    return y


def full_rank_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    delta: Tensor,
    *,
    recompute_delta: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Compute y = x (W + dW)^T + c with the gradient of dW, g^T x.

    Saved for backward: x (T, in), and W + dW (out, in) unless dW can be recomputed.

    Args:
        x: (..., in).
        weight: W (out, in), frozen.
        bias: c (out,), frozen, or None.
        delta: dW (out, in).
        recompute_delta: Returns dW again in backward, so that W + dW need not be saved (out * in
            numbers); None saves it.

    Returns:
        (..., out) in the compute dtype.
    """
    y: Tensor = _FullRankLinear.apply(x, weight, bias, delta, recompute_delta)
    return y


def flatten_tokens(x: Tensor) -> Tensor:
    """Reshape (..., d) to (T, d)."""
    return x.reshape(-1, x.shape[-1])


def unflatten_like(rows: Tensor, like: Tensor) -> Tensor:
    """Reshape (T, d) to the leading dimensions of `like`, a tensor of T tokens."""
    return rows.view(*like.shape[:-1], rows.shape[-1])


class _LowRankLinear(torch.autograd.Function):
    """y = x (W + s B A)^T + c.

    With h = A x^T (r, T) and u = B^T g^T (r, T) the gradients are

        gx = g (W + s B A) = g W + s u^T A      (T, in)
        gB = s (h g)^T                          (out, r)
        gA = s u x                              (r, in)
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        b: Tensor,
        a: Tensor,
        scale: float,
        projected: Tensor | None,
        merge: tuple[bool, bool],
        grad_enabled: bool,
    ) -> Tensor:
        """Map (..., in) to (..., out); see `low_rank_linear`."""
        merge_forward, merge_backward = merge
        dtype = compute_dtype(x)
        merged = None
        with without_autocast(x):
            rows = flatten_tokens(x).to(dtype)
            w = weight.to(dtype)
            left = b.to(dtype)
            right = a.to(dtype)
            c = None if bias is None else bias.to(dtype)
            h = projected
            # h gives the update unless merged, and gB in backward. Merged inference needs neither.
            if h is None and (grad_enabled or not merge_forward):
                h = project(right, rows)
            if merge_forward:
                merged = torch.addmm(w, left, right, alpha=scale)
                y = F.linear(rows, merged, c)
            else:
                y = F.linear(rows, w, c)
                # In place: y is new memory, and s h^T B^T would be another (T, out) tensor.
                y.addmm_(by_token(h), left.t(), alpha=scale)  # type: ignore[arg-type]
        if grad_enabled:
            wants_x, wants_a = ctx.needs_input_grad[0], ctx.needs_input_grad[4]
            # W + s B A spares backward a product, at out * in numbers. With a frozen A that is
            # affordable, since x is not saved. With a trained A both would exceed what plain
            # autograd saves, so backward computes the sum again.
            keeps_merged = merge_backward and wants_x and not wants_a
            ctx.merge_backward, ctx.scale = merge_backward, scale
            ctx.dtype, ctx.x_dtype = dtype, x.dtype
            # x is needed for gA alone. W, B and A are saved in their own dtype: they exist anyway,
            # so this takes no memory, and autograd notices if they are changed before backward.
            ctx.save_for_backward(
                rows if wants_a else None, h, merged if keeps_merged else None, weight, b, a
            )
        return unflatten_like(y, x)

    # Backward is not differentiable itself: without this mark a second derivative would be wrong
    # without an error.
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of x, B and A where they are needed."""
        rows, h, merged, weight, b, a = ctx.saved_tensors
        wants_x, _, _, wants_b, wants_a, *_ = ctx.needs_input_grad
        gx = gb = ga = None
        with without_autocast(gy):
            g = flatten_tokens(gy)
            w = weight.to(ctx.dtype)
            left = b.to(ctx.dtype)
            right = a.to(ctx.dtype)
            # u gives gA, and gx unless merged. It is computed once for both.
            u = None
            if wants_a or (wants_x and not ctx.merge_backward):
                u = project(left.t().contiguous(), g)
            if wants_b:
                gb = (ctx.scale * contract(h, g)).t().to(b.dtype)
            if wants_a:
                ga = (ctx.scale * contract(u, rows)).to(a.dtype)  # type: ignore[arg-type]
            if wants_x:
                if ctx.merge_backward:
                    if merged is None:  # not saved: A trains, or forward was not merged
                        merged = torch.addmm(w, left, right, alpha=ctx.scale)
                    gx = g @ merged
                else:
                    gx = (g @ w).addmm_(by_token(u), right, alpha=ctx.scale)  # type: ignore[arg-type]
                gx = unflatten_like(gx, gy).to(ctx.x_dtype)
        return gx, None, None, gb, ga, None, None, None, None


class _FullRankLinear(torch.autograd.Function):
    """y = x (W + dW)^T + c, with gx = g (W + dW) (T, in) and gdW = g^T x (out, in)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        delta: Tensor,
        recompute_delta: Callable[[], Tensor] | None,
    ) -> Tensor:
        """Map (..., in) to (..., out); see `full_rank_linear`."""
        dtype = compute_dtype(x)
        with without_autocast(x):
            rows = flatten_tokens(x).to(dtype)
            merged = _sum(weight, delta, dtype)
            y = F.linear(rows, merged, None if bias is None else bias.to(dtype))
        ctx.recompute_delta, ctx.dtype = recompute_delta, dtype
        ctx.x_dtype, ctx.delta_dtype = x.dtype, delta.dtype
        # Only gx needs W + dW. Where it is recomputed, or where gx is not needed, W is saved in its
        # place: W exists anyway and takes no memory.
        keeps_merged = recompute_delta is None and ctx.needs_input_grad[0]
        ctx.save_for_backward(rows, merged if keeps_merged else weight)
        return unflatten_like(y, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of x and dW where they are needed."""
        rows, w = ctx.saved_tensors  # w is W + dW unless `recompute_delta` is given
        gx = gd = None
        with without_autocast(gy):
            g = flatten_tokens(gy)
            if ctx.needs_input_grad[3]:
                gd = (g.t() @ rows).to(ctx.delta_dtype)
            if ctx.needs_input_grad[0]:
                merged = w
                if ctx.recompute_delta is not None:
                    merged = _sum(w, ctx.recompute_delta(), ctx.dtype)
                gx = unflatten_like(g @ merged, gy).to(ctx.x_dtype)
        return gx, None, None, gd, None


def _sum(weight: Tensor, delta: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute W + dW in the higher precision of the two, then round once to `dtype`."""
    return (weight + delta).to(dtype)
