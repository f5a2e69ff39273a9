"""An adapted layer whose update is a random full-rank sum: dW = B S or its transpose, B frozen.

This is RandLoRA's update (Albert et al., ICLR 2025, equation 3). S (n r, m) stacks the n blocks
s diag(lambda_j) A diag(gamma_j), with M = max(in, out), m = min(in, out), B (M, n r) and A (r, m)
frozen, and lambda and gamma trained. The coefficients need only P (n r, m), the gradient of S. The
gradient of dW (out, in) is never formed for them. With g the gradient of y:

    out >= in   dW = B S       P = B^T g^T x       saved: x (T, m)
    out <  in   dW = S^T B^T   P = (x B)^T g       saved: x B (T, n r), instead of the wider x

A product of three matrices is computed in the cheaper order. Going through the tokens first costs
in proportion to T, going through the weights first in proportion to M, so the choice is T < M.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlora.ops.context import compute_dtype, without_autocast
from rlora.ops.fused_linear import flatten_tokens, unflatten_like


def stacked(lambda_: Tensor, gamma: Tensor, a: Tensor, scale: float) -> Tensor:
    """Compute S = [s diag(lambda_j) A diag(gamma_j)]_j.

    Args:
        lambda_: (n, r).
        gamma: (n, m).
        a: A (r, m).
        scale: s.

    Returns:
        (n r, m).
    """
    # The multiplication in place avoids a second tensor of S's size.
    return (a * gamma[:, None, :]).mul_(scale * lambda_[:, :, None]).flatten(0, 1)


def coefficient_gradients(
    p: Tensor, lambda_: Tensor, gamma: Tensor, a: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of lambda and gamma from the gradient of S.

        g_lambda_ji = s sum_c P_jic A_ic gamma_jc
        g_gamma_jc = s sum_i lambda_ji P_jic A_ic

    Args:
        p: P (n r, m), the gradient of S.
        lambda_: (n, r).
        gamma: (n, m).
        a: A (r, m).
        scale: s.

    Returns:
        Gradients of shapes (n, r) and (n, m), in A's dtype: the sums run in float32 under autocast.
    """
    weighted = p.view(*lambda_.shape, -1).to(a.dtype) * a  # P_j * A, shared by both sums
    by_lambda = scale * (weighted @ gamma[:, :, None])[:, :, 0]
    by_gamma = scale * (lambda_[:, None, :] @ weighted)[:, 0]
    return by_lambda, by_gamma


class RandomSum(torch.autograd.Function):
    """B S as a tensor, for merging and for paths that need dW itself.

    Plain autograd would save S and intermediates of its size (n r, m). Backward only needs
    P = B^T g and the coefficients, so no tensor is saved beyond those that exist anyway.
    """

    @staticmethod
    def forward(
        ctx: Any, lambda_: Tensor, gamma: Tensor, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        """Compute B S, (M, m), from lambda (n, r), gamma (n, m), A (r, m) and B (M, n r)."""
        ctx.scale = scale
        ctx.save_for_backward(lambda_, gamma, a, b)
        return b @ stacked(lambda_, gamma, a, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of lambda and gamma from P = B^T g, with g (M, m)."""
        lambda_, gamma, a, b = ctx.saved_tensors
        gradients = coefficient_gradients(b.t() @ gradient, lambda_, gamma, a, ctx.scale)
        return *gradients, None, None, None


class RandomSumLinear(torch.autograd.Function):
    """y = x (W + dW)^T + c.

    T min(in, out) numbers are saved for backward (T n r if out < in), and W + dW if `keep` is set.
    """

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
        """Map (..., in) to (..., out), with W (out, in), A (r, m) and B (M, n r)."""
        dtype = compute_dtype(x)
        transposed = len(weight) < weight.shape[1]  # out < in: dW = S^T B^T
        with without_autocast(x):
            rows = flatten_tokens(x).to(dtype)
            w = weight.to(dtype)
            base = b.to(dtype)
            c = None if bias is None else bias.to(dtype)
            s = stacked(lambda_, gamma, a, scale).to(dtype)
            # What P needs of x: x B if dW is transposed, which is narrower than x, else x.
            z = rows @ base if transposed else rows
            few_tokens = len(rows) < max(weight.shape)  # T < M
            if transposed and few_tokens and not keep:
                # x B exists already, so (x B) S with T n r m multiply-adds finishes the update.
                # Building S^T B^T takes M n r m.
                merged = None
                y = F.linear(rows, w, c).addmm_(z, s)
            else:
                merged = _merged(w, base, s, transposed)
                y = F.linear(rows, merged, c)
        ctx.transposed, ctx.few_tokens = transposed, few_tokens
        ctx.dtype, ctx.x_dtype, ctx.scale = dtype, x.dtype, scale
        # Only the gradient of x needs W + dW.
        saved = merged if keep and ctx.needs_input_grad[0] else None
        # S is not saved: it follows from lambda, gamma and A, which exist anyway.
        ctx.save_for_backward(z, saved, weight, lambda_, gamma, a, b)
        return unflatten_like(y, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of x, lambda and gamma."""
        z, merged, weight, lambda_, gamma, a, b = ctx.saved_tensors
        with without_autocast(gy):
            g = flatten_tokens(gy)
            w = weight.to(ctx.dtype)
            base = b.to(ctx.dtype)
            # g B (T, n r) serves P and gx, if going through the tokens is cheaper. It does not
            # exist for a transposed dW, where g has the width m and not M.
            v = g @ base if ctx.few_tokens and not ctx.transposed else None
            if ctx.transposed:
                p = z.t() @ g  # (x B)^T g
            elif v is None:
                p = base.t() @ (g.t() @ z)  # B^T (g^T x): T M m + n r M m multiply-adds
            else:
                p = v.t() @ z  # (g B)^T x: T M n r + T n r m multiply-adds
            gx = None
            if ctx.needs_input_grad[0] and merged is not None:
                gx = g @ merged
            elif ctx.needs_input_grad[0]:
                s = stacked(lambda_, gamma, a, ctx.scale).to(ctx.dtype)
                # Through the weights g (W + dW), or through the tokens g W + (g B) S.
                gx = g @ _merged(w, base, s, ctx.transposed) if v is None else (g @ w).addmm_(v, s)
            gradients = coefficient_gradients(p, lambda_, gamma, a, ctx.scale)
        gx = None if gx is None else unflatten_like(gx, gy).to(ctx.x_dtype)
        return gx, None, None, *gradients, None, None, None, None


def _merged(w: Tensor, base: Tensor, s: Tensor, transposed: bool) -> Tensor:
    """Compute W + dW, (out, in)."""
    return torch.addmm(w, s.t(), base.t()) if transposed else torch.addmm(w, base, s)
