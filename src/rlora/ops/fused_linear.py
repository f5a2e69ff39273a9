"""An adapted layer's y = x (W + dW)^T + c as one autograd function that keeps little for backward.

W is frozen: nothing here computes its gradient. Under autocast the products run in autocast's dtype, while the factors
and their gradients stay in their own (float32).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlora.ops.context import compute_dtype, without_autocast

THIN = 32  # products with at most so many rows are split below
BLOCKS = 16


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

    Kept for backward: x and A x, or only A x where A is frozen; beside them W, B and A themselves. Where A is frozen
    and both directions are merged, W + s B A is kept as well (out in numbers).

    Args:
        x: (..., in).
        weight: W (out, in), frozen.
        bias: c (out,) or None.
        b: B (out, r).
        a: A (r, in).
        scale: s.
        projected: `project(A, x)` where it is at hand; only for a frozen A.
        merge_forward: Multiply once by W + s B A, in place of adding B (A x) to W x; for W of full precision, as the
            sum would lose small changes in half.
        merge_backward: The same for x's gradient.

    Returns:
        (..., out) in the dtype of the computation.
    """
    wanted = torch.is_grad_enabled()
    merge = (merge_forward, merge_backward)
    result: Tensor = _LowRankLinear.apply(x, weight, bias, b, a, scale, projected, merge, wanted)
    return result


def full_rank_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    delta: Tensor,
    *,
    again: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Compute y = x (W + dW)^T + c with the gradient of dW, gy^T x.

    Kept for backward: x and W + dW, or x alone.

    Args:
        x: (..., in).
        weight: W (out, in), frozen.
        bias: c (out,) or None.
        delta: dW (out, in).
        again: Computes dW anew in backward; None keeps W + dW.

    Returns:
        (..., out) in the dtype of the computation.
    """
    result: Tensor = _FullRankLinear.apply(x, weight, bias, delta, again)
    return result


def flatten_tokens(x: Tensor) -> Tensor:
    """(..., d) as (T, d)."""
    return x.reshape(-1, x.shape[-1])


def unflatten_like(rows: Tensor, like: Tensor) -> Tensor:
    """(T, d) with the leading dimensions of another tensor of T rows."""
    return rows.view(*like.shape[:-1], rows.shape[-1])


def project(a: Tensor, x: Tensor) -> Tensor:
    """A x for rows x (T, in), as (blocks, r, T / blocks).

    In blocks of tokens, because BLAS is slow at a few rows against many: on a CPU 16 products with r <= 32 take
    about two thirds of the time of one.
    """
    rows = _blocks(x, len(a))
    if len(rows) == 1:
        return F.linear(x, a).t()[None]
    return torch.bmm(a.expand(len(rows), *a.shape), rows.mT)


def contract(h: Tensor, g: Tensor) -> Tensor:
    """sum_t h_t g_t^T, (r, d), of h as `project` gives it and g (T, d); summed over the blocks in float32 or better."""
    if len(h) == 1:
        return (g.t() @ h[0].t()).t()
    products = torch.bmm(h, g.reshape(len(h), -1, g.shape[-1]))
    return products.sum(0, dtype=torch.promote_types(products.dtype, torch.float32))


def combine(c: Tensor, bank: Tensor) -> Tensor:
    """C . bank for few combinations c (L, k) of a large bank (k, n), (L, n).

    In blocks of columns, as in `project`: that reads the bank, which is what it costs, about twice as fast.
    """
    if not _worth_blocks(c, len(c), bank.shape[1]):
        return c @ bank
    columns = bank.unflatten(1, (BLOCKS, -1)).transpose(0, 1)
    return torch.bmm(c.expand(BLOCKS, *c.shape), columns).transpose(0, 1).flatten(1)


def by_token(h: Tensor) -> Tensor:
    """(blocks, r, T / blocks) as (T, r)."""
    return h.transpose(1, 2).reshape(-1, h.shape[1])


def _blocks(x: Tensor, rank: int) -> Tensor:
    return (
        x.reshape(BLOCKS if _worth_blocks(x, rank, len(x)) else 1, -1, x.shape[-1])
        if len(x)
        else x[None]
    )


def _worth_blocks(x: Tensor, thin: int, long: int) -> bool:
    return x.device.type == "cpu" and thin <= THIN and long >= 16 * BLOCKS and long % BLOCKS == 0


class _LowRankLinear(torch.autograd.Function):
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
        wanted: bool,
    ) -> Tensor:
        dtype, merged = compute_dtype(x), None
        with without_autocast(x):
            rows, w, left, right = (
                flatten_tokens(x).to(dtype),
                weight.to(dtype),
                b.to(dtype),
                a.to(dtype),
            )
            c = None if bias is None else bias.to(dtype)
            h = projected
            if h is None and (wanted or not merge[0]):
                h = project(right, rows)
            if merge[0]:
                merged = torch.addmm(w, left, right, alpha=scale)
                y = F.linear(rows, merged, c)
            else:
                y = F.linear(rows, w, c)
                y.addmm_(by_token(h), left.t(), alpha=scale)  # type: ignore[arg-type]
        if wanted:
            wants_x, wants_a = ctx.needs_input_grad[0], ctx.needs_input_grad[4]
            keep = merge[1] and wants_x and not wants_a
            ctx.merge, ctx.scale, ctx.dtype, ctx.x_dtype = merge[1], scale, dtype, x.dtype
            ctx.save_for_backward(
                rows if wants_a else None, h, merged if keep else None, weight, b, a
            )
        return unflatten_like(y, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        rows, h, merged, weight, b, a = ctx.saved_tensors
        wants_x, _, _, wants_b, wants_a, *_ = ctx.needs_input_grad
        gx = gb = ga = None
        with without_autocast(gy):
            g, w, left, right = (
                flatten_tokens(gy),
                weight.to(ctx.dtype),
                b.to(ctx.dtype),
                a.to(ctx.dtype),
            )
            u = (
                project(left.t().contiguous(), g)
                if wants_a or (wants_x and not ctx.merge)
                else None
            )
            if wants_b:
                gb = (ctx.scale * contract(h, g)).t().to(b.dtype)
            if wants_a:
                ga = (ctx.scale * contract(u, rows)).to(a.dtype)  # type: ignore[arg-type]
            if wants_x:
                if ctx.merge:
                    gx = g @ (
                        torch.addmm(w, left, right, alpha=ctx.scale) if merged is None else merged
                    )
                else:
                    gx = (g @ w).addmm_(by_token(u), right, alpha=ctx.scale)  # type: ignore[arg-type]
                gx = unflatten_like(gx, gy).to(ctx.x_dtype)
        return gx, None, None, gb, ga, None, None, None, None


class _FullRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        delta: Tensor,
        again: Callable[[], Tensor] | None,
    ) -> Tensor:
        dtype = compute_dtype(x)
        with without_autocast(x):
            rows, merged = flatten_tokens(x).to(dtype), _sum(weight, delta, dtype)
            y = F.linear(rows, merged, None if bias is None else bias.to(dtype))
        ctx.again, ctx.dtype, ctx.x_dtype, ctx.delta_dtype = again, dtype, x.dtype, delta.dtype
        ctx.save_for_backward(rows, merged if again is None and ctx.needs_input_grad[0] else weight)
        return unflatten_like(y, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        rows, w = ctx.saved_tensors
        gx = gd = None
        with without_autocast(gy):
            g = flatten_tokens(gy)
            if ctx.needs_input_grad[3]:
                gd = (g.t() @ rows).to(ctx.delta_dtype)
            if ctx.needs_input_grad[0]:
                merged = w if ctx.again is None else _sum(w, ctx.again(), ctx.dtype)
                gx = unflatten_like(g @ merged, gy).to(ctx.x_dtype)
        return gx, None, None, gd, None


def _sum(weight: Tensor, delta: Tensor, dtype: torch.dtype) -> Tensor:
    """W + dW, added in the better of the two precisions and rounded once."""
    return (weight + delta).to(dtype)
