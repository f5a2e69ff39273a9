"""Which way an adapted layer is computed: the one that costs least for T tokens, never one of taste.

Counted are multiply-adds of a training step beyond those of the frozen layer itself (2 T in out), for factors
B (out, r) and A (r, in); rows are what differs when A is frozen:

    factored     y = W x + B (A x)        T r (3 in + 3 out)            frozen A: T r (2 in + 3 out)
    merged       y = (W + B A) x,         2 r in out + T r (2 in + 2 out)         2 r in out + T r (in + out)
                 gradients by B and A
    full         y = (W + dW) x,          4 r in out + T in out
                 gradients through dW's
    transformed  activations transformed  3 T (n(in) f(in) + n(out) f(out)) / SPEED

with f(n) the sum of the sizes of H_n's Kronecker factors. Merged and full round W + dW once: in half precision that
would swallow small changes, so that a low-rank update is added to activations there.
"""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from enum import StrEnum

import torch

from rlora.ops.hadamard import kronecker_sizes, next_power_of_two

# A transform's multiply-adds a second as a share of a large product's. CPU: measured, `make bench`; CUDA: an
# assumption, from the transform being bound by memory.
TRANSFORM_SPEED = {"cpu": 1 / 8, "cuda": 1 / 16}


class Path(StrEnum):
    """The ways to compute an adapted layer."""

    FACTORED = "factored"
    MERGED = "merged"
    FULL = "full"
    TRANSFORMED = "transformed"


_forced: ContextVar[Path | None] = ContextVar("forced", default=None)


@contextlib.contextmanager
def forced(path: Path | str) -> Iterator[None]:
    """Take one path wherever a layer has it, for tests and benchmarks."""
    token = _forced.set(Path(path))
    try:
        yield
    finally:
        _forced.reset(token)


def cheapest(costs: Mapping[Path, float]) -> Path:
    """The path of least cost, or the one that `forced` asks for."""
    asked = _forced.get()
    return asked if asked is not None and asked in costs else min(costs, key=lambda path: costs[path])


def low_rank_costs(
    tokens: int, in_features: int, out_features: int, rank: int, *, dtype: torch.dtype, trains_a: bool = True
) -> dict[Path, float]:
    """Costs of the paths every update with factors has, in multiply-adds."""
    t, i, o, r = tokens, in_features, out_features, rank
    costs = {Path.FACTORED: float(t * r * ((3 if trains_a else 2) * i + 3 * o))}
    if dtype in (torch.float32, torch.float64):
        through = t * r * (i + o) * (2 if trains_a else 1)
        costs[Path.MERGED] = 2 * r * i * o + through
        costs[Path.FULL] = 4 * r * i * o + t * i * o
    return costs


def transform_cost(tokens: int, in_features: int, out_features: int, device: torch.device) -> float:
    """Cost of transforming activations on both sides, in multiply-adds of a large product."""
    orders = (next_power_of_two(in_features), next_power_of_two(out_features))
    work = sum(n * sum(kronecker_sizes(n)) for n in orders)
    return 3 * tokens * work / TRANSFORM_SPEED.get(device.type, TRANSFORM_SPEED["cpu"])
