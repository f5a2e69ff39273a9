"""PAC-Bayes and test-set bounds on a risk in [0, 1], as pure functions in float64.

The PAC-Bayes bounds take the empirical risk r of the posterior and the complexity c of `complexity`; with probability
at least 1 - delta over n independent examples they hold for all posteriors at once. `klinv` is the bound itself
(Langford and Seeger 2001; Maurer 2004); the others are relaxations of it and never lie below it:

    mcallester   r + sqrt(c / 2)                                        Pinsker's inequality
    quadratic    (sqrt(r + c / 2) + sqrt(c / 2))^2                      Rivasplata et al. 2019, section 3
    lambda       r / (1 - l / 2) + c / (l (1 - l / 2)),  0 < l < 2      Thiemann et al. 2017, theorem 3
    catoni       (1 - exp(-b r - c)) / (1 - exp(-b)),    b > 0          Catoni 2007, theorem 1.2.6

l and b are numbers fixed beforehand in Catoni's own theorem; as relaxations of `klinv` they may be chosen afterwards.
Numbers and tensors of any shape are taken, float64 tensors given; all are differentiable in r and c.
"""

import math
from typing import Any

import torch
from scipy.stats import beta
from torch import Tensor
from torch.autograd.function import once_differentiable

Number = Tensor | float
WIDTH = 1e-12  # of the interval in which bisection has caught the root


def _double(x: Number) -> Tensor:
    return (
        torch.as_tensor(x, dtype=torch.float64)
        if not isinstance(x, Tensor)
        else x.to(torch.float64)
    )


def _check_risk(r: Tensor, name: str = "risk") -> None:
    if r.requires_grad or r.device.type != "cpu":
        return  # a look at the value would stop the device
    if not bool(((r >= 0) & (r <= 1)).all()):
        raise ValueError(f"a {name} must lie in [0, 1], not {r.tolist()}")


def check_delta(delta: float, name: str = "delta") -> float:
    """Refuse a probability of failure outside (0, 1).

    Raises:
        ValueError: it is.
    """
    if not 0 < delta < 1:
        raise ValueError(
            f"{name}={delta} must lie strictly between 0 and 1: it is a probability of failure"
        )
    return float(delta)


def check_count(n: float, name: str = "n") -> int:
    """Refuse a number of examples or draws below 1.

    Raises:
        ValueError: it is.
    """
    if not (n >= 1 and int(n) == n):
        raise ValueError(f"{name}={n} must be a whole number of at least 1")
    return int(n)


def complexity(kl_divergence: Number, n: int, delta: float) -> Tensor:
    """Complexity of a posterior, c = (KL + ln(2 sqrt(n) / delta)) / n (Maurer 2004, theorem 5).

    Args:
        kl_divergence: KL(Q || P) in nats, at least 0.
        n: Number of examples the empirical risk is an average of.
        delta: Probability with which the bound may fail.

    Raises:
        ValueError: n below 1 or delta outside (0, 1).
    """
    check_count(n)
    return (_double(kl_divergence) + math.log(2 * math.sqrt(n) / check_delta(delta))) / n


def kl(q: Number, p: Number) -> Tensor:
    """Divergence of two coins, q ln(q / p) + (1 - q) ln((1 - q) / (1 - p)) nats; infinite where p excludes q."""
    q, p = _double(q), _double(p)
    return (
        torch.xlogy(q, q)
        - torch.xlogy(q, p)
        + torch.special.xlog1py(1 - q, -q)
        - torch.special.xlog1py(1 - q, -p)
    )


class _UpperInverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, c: Tensor) -> Tensor:
        low, high = q.clone(), torch.ones_like(q)
        for _ in range(math.ceil(-math.log2(WIDTH))):
            middle = (low + high) / 2
            inside = kl(q, middle) <= c
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        ctx.save_for_backward(q, high)
        return high

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        q, p = ctx.saved_tensors
        q = q.clamp(1e-15, 1 - 1e-6)  # away from the poles at q = 0, at c = 0 and at p = 1
        p = torch.maximum(p, q + 1e-9 * (1 - q)).clamp(max=1 - 1e-12)
        t1, t2 = (1 - q) / (1 - p), q / p
        return gradient * torch.log(t1 / t2) / (t1 - t2), gradient / (t1 - t2)


def klinv(q: Number, c: Number) -> Tensor:
    """Find the largest p with kl(q || p) <= c, by bisection on [q, 1] to an absolute width of 1e-12; its upper end.

    Derivatives, with t1 = (1 - q) / (1 - p) and t2 = q / p: dp/dq = ln(t1 / t2) / (t1 - t2), dp/dc = 1 / (t1 - t2)
    (Reeb et al., NeurIPS 2018, appendix A).

    Args:
        q: Empirical risk in [0, 1].
        c: What kl may be, at least 0.

    Raises:
        ValueError: q outside [0, 1].
    """
    risk, most = torch.broadcast_tensors(_double(q), _double(c))
    _check_risk(risk)
    result: Tensor = _UpperInverse.apply(risk, most)
    return result


def mcallester(r: Number, c: Number) -> Tensor:
    """McAllester's bound, r + sqrt(c / 2)."""
    return _double(r) + (_double(c) / 2).sqrt()


def quadratic(r: Number, c: Number) -> Tensor:
    """Rivasplata's bound (sqrt(r + c / 2) + sqrt(c / 2))^2, which is `lambda_bound` at its best l."""
    r, half = _double(r), _double(c) / 2
    return ((r + half).sqrt() + half.sqrt()).square()


def lambda_bound(r: Number, c: Number, l: Number) -> Tensor:  # noqa: E741 - the literature's letter
    """Thiemann's bound r / (1 - l / 2) + c / (l (1 - l / 2)) for l in (0, 2)."""
    r, c, l = _double(r), _double(c), _double(l)  # noqa: E741
    return r / (1 - l / 2) + c / (l * (1 - l / 2))


def best_lambda(r: Number, c: Number) -> Tensor:
    """The l that minimizes `lambda_bound`: 2 / (sqrt(2 r / c + 1) + 1) (Thiemann et al. 2017, section 4)."""
    return 2 / ((2 * _double(r) / _double(c) + 1).sqrt() + 1)


def catoni(r: Number, c: Number, b: Number) -> Tensor:
    """Catoni's bound (1 - exp(-b r - c)) / (1 - exp(-b)) for b > 0."""
    b = _double(b)
    return torch.expm1(-b * _double(r) - _double(c)) / torch.expm1(-b)


def hoeffding(r: Number, n: int, delta: float) -> Tensor:
    """Upper bound r + sqrt(ln(1 / delta) / (2 n)) on the mean of n independent variables in [0, 1], of average r."""
    return _double(r) + math.sqrt(math.log(1 / check_delta(delta)) / (2 * check_count(n)))


def chernoff(r: Number, n: int, delta: float) -> Tensor:
    """Upper bound klinv(r, ln(1 / delta) / n) on the mean of n independent variables in [0, 1], of average r.

    It holds for variables of different means as well (Hoeffding 1963, theorem 1).
    """
    return klinv(r, math.log(1 / check_delta(delta)) / check_count(n))


def clopper_pearson(errors: int, n: int, delta: float) -> float:
    """Exact upper bound on an error rate: the p at which at most `errors` errors of n have probability delta.

    Args:
        errors: Errors counted, in 0..n.
        n: Examples.
        delta: Probability with which the bound may fail.

    Raises:
        ValueError: a number out of range.

    Source: Clopper and Pearson, Biometrika 1934; the quantile of Beta(errors + 1, n - errors).
    """
    check_count(n)
    check_delta(delta)
    if not 0 <= errors <= n:
        raise ValueError(f"errors={errors} must lie in 0..n={n}")
    return 1.0 if errors == n else float(beta.ppf(1 - delta, errors + 1, n - errors))
