"""PAC-Bayes and test-set bounds on a risk in [0, 1], as pure functions in float64.

A PAC-Bayes bound takes the posterior's empirical risk r and the complexity c of `complexity`. With
probability at least 1 - delta over n independent examples it holds for all posteriors at once.
`klinv` is the bound itself (Langford and Seeger 2001; Maurer 2004). The others are relaxations of
it and never below it:

    mcallester  r + sqrt(c / 2)                                 Pinsker's inequality
    quadratic   (sqrt(r + c / 2) + sqrt(c / 2))^2               Rivasplata et al. 2019, section 3
    lambda      r / (1 - l / 2) + c / (l (1 - l / 2)), 0 < l < 2  Thiemann et al. 2017, theorem 3
    catoni      (1 - exp(-b r - c)) / (1 - exp(-b)), b > 0      Catoni 2007, theorem 1.2.6

Catoni's own theorem fixes l and b in advance. As relaxations of `klinv` they may be chosen
afterwards. Arguments are numbers or tensors of any shape. Results are float64 tensors,
differentiable in r and c.
"""

import math
from typing import Any

import torch
from scipy.stats import beta
from torch import Tensor
from torch.autograd.function import once_differentiable

Number = Tensor | float
WIDTH = 1e-12  # width of the last interval of the bisection


def _double(x: Number) -> Tensor:
    # float64: c is often near 1e-6, where float32 leaves no digits of p - q
    if isinstance(x, Tensor):
        return x.to(torch.float64)
    return torch.as_tensor(x, dtype=torch.float64)


def _check_risk(r: Tensor, name: str = "risk") -> None:
    if r.requires_grad or r.device.type != "cpu":
        return  # reading the value would synchronize the device in every training step
    if not bool(((r >= 0) & (r <= 1)).all()):
        raise ValueError(f"{name}={r.tolist()} is invalid: expected a value in [0, 1]")


def check_delta(delta: float, name: str = "delta") -> float:
    """Return a probability of failure if it is in (0, 1).

    Raises:
        ValueError: it is not.
    """
    if not 0 < delta < 1:
        raise ValueError(
            f"{name}={delta} is invalid: expected a probability of failure strictly between 0 and 1"
        )
    return float(delta)


def check_count(n: float, name: str = "n") -> int:
    """Return a number of examples or samples if it is an integer of at least 1.

    Raises:
        ValueError: it is not.
    """
    if not (n >= 1 and int(n) == n):
        raise ValueError(f"{name}={n} is invalid: expected an integer of at least 1")
    return int(n)


def complexity(kl_divergence: Number, n: int, delta: float) -> Tensor:
    """Return the complexity of a posterior, c = (KL + ln(2 sqrt(n) / delta)) / n.

    Source: Maurer 2004, theorem 5.

    Args:
        kl_divergence: KL(Q || P) in nats, at least 0.
        n: Number of examples that the empirical risk averages.
        delta: Probability with which the bound may fail.

    Raises:
        ValueError: n is below 1 or delta is outside (0, 1).
    """
    check_count(n)
    return (_double(kl_divergence) + math.log(2 * math.sqrt(n) / check_delta(delta))) / n


def kl(q: Number, p: Number) -> Tensor:
    """Return the KL divergence of Bernoulli(q) from Bernoulli(p) in nats.

    kl(q || p) = q ln(q / p) + (1 - q) ln((1 - q) / (1 - p)). It is infinite if p is 0 or 1 and q
    differs from p.
    """
    q, p = _double(q), _double(p)
    # xlogy and xlog1py are 0 at 0 ln 0; log1p keeps the digits of 1 - p at a small p
    return (
        torch.xlogy(q, q)
        - torch.xlogy(q, p)
        + torch.special.xlog1py(1 - q, -q)
        - torch.special.xlog1py(1 - q, -p)
    )


class _UpperInverse(torch.autograd.Function):
    """`klinv` with its implicit derivatives: bisection itself has none."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, c: Tensor) -> Tensor:
        low, high = q.clone(), torch.ones_like(q)
        # a fixed number of steps: a convergence test would synchronize the device
        for _ in range(math.ceil(-math.log2(WIDTH))):
            middle = (low + high) / 2
            inside = kl(q, middle) <= c
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        ctx.save_for_backward(q, high)
        return high  # the upper end: rounding must not make the bound optimistic

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        q, p = ctx.saved_tensors
        # the derivatives have poles at q = 0, at c = 0 (where p = q) and at p = 1
        q = q.clamp(1e-15, 1 - 1e-6)
        p = torch.maximum(p, q + 1e-9 * (1 - q)).clamp(max=1 - 1e-12)
        t1, t2 = (1 - q) / (1 - p), q / p
        return gradient * torch.log(t1 / t2) / (t1 - t2), gradient / (t1 - t2)


def klinv(q: Number, c: Number) -> Tensor:
    """Return the largest p with kl(q || p) <= c.

    Bisection on [q, 1] to an absolute width of 1e-12; the result is the upper end of the interval.
    With t1 = (1 - q) / (1 - p) and t2 = q / p, the derivatives are dp/dq = ln(t1 / t2) / (t1 - t2)
    and dp/dc = 1 / (t1 - t2) (Reeb et al., NeurIPS 2018, appendix A).

    Args:
        q: Empirical risk in [0, 1].
        c: Upper limit of kl in nats, at least 0.

    Raises:
        ValueError: q is outside [0, 1].
    """
    risk, limit = torch.broadcast_tensors(_double(q), _double(c))
    _check_risk(risk)
    result: Tensor = _UpperInverse.apply(risk, limit)
    return result


def mcallester(r: Number, c: Number) -> Tensor:
    """Return McAllester's bound r + sqrt(c / 2)."""
    return _double(r) + (_double(c) / 2).sqrt()


def quadratic(r: Number, c: Number) -> Tensor:
    """Return Rivasplata's bound (sqrt(r + c / 2) + sqrt(c / 2))^2.

    It equals `lambda_bound` at its best l.
    """
    r, half = _double(r), _double(c) / 2
    return ((r + half).sqrt() + half.sqrt()).square()


def lambda_bound(r: Number, c: Number, l: Number) -> Tensor:  # noqa: E741 - the literature's letter
    """Return Thiemann's bound r / (1 - l / 2) + c / (l (1 - l / 2)) for l in (0, 2)."""
    r, c, l = _double(r), _double(c), _double(l)  # noqa: E741
    return r / (1 - l / 2) + c / (l * (1 - l / 2))


def best_lambda(r: Number, c: Number) -> Tensor:
    """Return the minimizer l = 2 / (sqrt(2 r / c + 1) + 1) of `lambda_bound`.

    Source: Thiemann et al. 2017, section 4.
    """
    return 2 / ((2 * _double(r) / _double(c) + 1).sqrt() + 1)


def catoni(r: Number, c: Number, b: Number) -> Tensor:
    """Return Catoni's bound (1 - exp(-b r - c)) / (1 - exp(-b)) for b > 0."""
    b = _double(b)
    return torch.expm1(-b * _double(r) - _double(c)) / torch.expm1(-b)


def hoeffding(r: Number, n: int, delta: float) -> Tensor:
    """Return Hoeffding's bound r + sqrt(ln(1 / delta) / (2 n)).

    It is an upper bound on the mean of n independent variables in [0, 1] with average r.
    """
    return _double(r) + math.sqrt(math.log(1 / check_delta(delta)) / (2 * check_count(n)))


def chernoff(r: Number, n: int, delta: float) -> Tensor:
    """Return Chernoff's bound klinv(r, ln(1 / delta) / n).

    It is an upper bound on the mean of n independent variables in [0, 1] with average r, also for
    variables with different means (Hoeffding 1963, theorem 1).
    """
    return klinv(r, math.log(1 / check_delta(delta)) / check_count(n))


def clopper_pearson(errors: int, n: int, delta: float) -> float:
    """Return the exact upper bound on an error rate.

    It is the p at which at most `errors` errors among n examples have probability delta, that is
    the 1 - delta quantile of Beta(errors + 1, n - errors) (Clopper and Pearson, Biometrika 1934).

    Args:
        errors: Number of errors, in 0..n.
        n: Number of examples.
        delta: Probability with which the bound may fail.

    Raises:
        ValueError: an argument is out of range.
    """
    check_count(n)
    check_delta(delta)
    if not 0 <= errors <= n:
        raise ValueError(f"errors={errors} is invalid: expected an integer in 0..n={n}")
    return 1.0 if errors == n else float(beta.ppf(1 - delta, errors + 1, n - errors))
