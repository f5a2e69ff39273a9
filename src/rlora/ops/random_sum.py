"""A layer whose update is a random full-rank sum, dW = B S or its transpose, with B frozen and S trained through.

RandLoRA's update (Albert et al., ICLR 2025, equation 3): S stacks the blocks s diag(lambda_j) A diag(gamma_j), B
(M, n r) and A (r, m) are frozen, M = max(in, out), m = min(in, out). What the coefficients need is the gradient of S
alone, P (n r, m), so that neither dW's gradient nor a second product is needed for them:

    out >= in   dW = B S       P = B^T gy^T x       kept: x (T, m)
    out <  in   dW = S^T B^T   P = (x B)^T gy       kept: x B (T, n r), in the place of the wider x

A product of three matrices is taken in the cheaper order, which depends on T against M.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlora.ops.context import compute_dtype, without_autocast
from rlora.ops.fused_linear import flatten_tokens, unflatten_like


def stacked(lambda_: Tensor, gamma: Tensor, a: Tensor, scale: float) -> Tensor:
    """S = [s diag(lambda_j) A diag(gamma_j)]_j, (n r, m), of lambda (n, r), gamma (n, m) and A (r, m)."""
    return (a * gamma[:, None, :]).mul_(scale * lambda_[:, :, None]).flatten(0, 1)


def coefficient_gradients(
    p: Tensor, lambda_: Tensor, gamma: Tensor, a: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of lambda and gamma from that of S, P (n r, m)."""
    weighted = p.view(*lambda_.shape, -1).to(a.dtype) * a
    by_lambda = scale * (weighted @ gamma[:, :, None])[:, :, 0]
    by_gamma = scale * (lambda_[:, None, :] @ weighted)[:, 0]
    return by_lambda, by_gamma


class RandomSum(torch.autograd.Function):
    """dW itself, keeping lambda and gamma only."""

    @staticmethod
    def forward(
        ctx: Any, lambda_: Tensor, gamma: Tensor, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        """B S, (M, m)."""
        ctx.scale = scale
        ctx.save_for_backward(lambda_, gamma, a, b)
        return b @ stacked(lambda_, gamma, a, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """P = B^T G."""
        lambda_, gamma, a, b = ctx.saved_tensors
        return (
            *coefficient_gradients(b.t() @ gradient, lambda_, gamma, a, ctx.scale),
            None,
            None,
            None,
        )


class RandomSumLinear(torch.autograd.Function):
    """y = x (W + dW)^T + c, keeping T min(in, out) numbers, and W + dW where `keep` says so."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lambda_: Tensor,
        gamma: Tensor,
        a: Tensor,
        b: Tensor,
        scale: float,
        keep: bool,
    ) -> Tensor:
        """(..., in) to (..., out); a (r, m), b (M, n r)."""
        dtype = compute_dtype(x)
        tall = len(weight) < weight.shape[1]
        with without_autocast(x):
            rows, w, base = flatten_tokens(x).to(dtype), weight.to(dtype), b.to(dtype)
            c = None if bias is None else bias.to(dtype)
            s = stacked(lambda_, gamma, a, scale).to(dtype)
            z = rows @ base if tall else rows
            few = len(rows) < max(weight.shape)
            if tall and few and not keep:
                merged, y = None, F.linear(rows, w, c).addmm_(z, s)
            else:
                merged = _merged(w, base, s, tall)
                y = F.linear(rows, merged, c)
        ctx.tall, ctx.few, ctx.dtype, ctx.x_dtype, ctx.scale = tall, few, dtype, x.dtype, scale
        kept = merged if keep and ctx.needs_input_grad[0] else None  # only x's gradient needs it
        ctx.save_for_backward(z, kept, weight, lambda_, gamma, a, b)
        return unflatten_like(y, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, lambda and gamma."""
        z, merged, weight, lambda_, gamma, a, b = ctx.saved_tensors
        with without_autocast(gy):
            g, w, base = flatten_tokens(gy), weight.to(ctx.dtype), b.to(ctx.dtype)
            v = g @ base if ctx.few and not ctx.tall else None
            if ctx.tall:
                p = z.t() @ g
            elif v is None:
                p = base.t() @ (g.t() @ z)
            else:
                p = v.t() @ z
            gx = None
            if ctx.needs_input_grad[0] and merged is not None:
                gx = g @ merged
            elif ctx.needs_input_grad[0]:
                s = stacked(lambda_, gamma, a, ctx.scale).to(ctx.dtype)
                gx = g @ _merged(w, base, s, ctx.tall) if v is None else (g @ w).addmm_(v, s)
            gradients = coefficient_gradients(p, lambda_, gamma, a, ctx.scale)
        gx = None if gx is None else unflatten_like(gx, gy).to(ctx.x_dtype)
        return gx, None, None, *gradients, None, None, None, None


def _merged(w: Tensor, base: Tensor, s: Tensor, tall: bool) -> Tensor:
    return torch.addmm(w, s.t(), base.t()) if tall else torch.addmm(w, base, s)
