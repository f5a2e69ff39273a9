"""Which way an adapted layer is computed: the one that costs least for T tokens, never one of taste.

Counted are multiply-adds of a training step beyond those of the frozen layer itself (2 T in out). For factors B
(out, r) and A (r, in), A x and the gradients of B and A take T r (2 in + 2 out), or T r (in + out) where A is frozen;
beside them

    factored     y = W x + B (A x)                            T r out
                 gx = W^T g + A^T (B^T g)                     T r in, frozen A: T r (in + out)
    merged       y = (W + B A) x                              r in out
                 gx = (W + B A)^T g                           r in out, frozen A: 0 where W + B A is kept

each of which is chosen for itself. The others, as a whole:

    full         y = (W + dW) x, gradients through dW's       4 r in out + T in out
    transformed  activations transformed                      3 T (n(in) f(in) + n(out) f(out)) / SPEED

with f(n) the sum of the sizes of H_n's Kronecker factors. Merged and full round W + dW once: in half precision that
would swallow small changes, so that a low-rank update is added to activations there.
"""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from enum import StrEnum

import torch

from rlora.ops.hadamard import kronecker_sizes, next_power_of_two

# Multiply-adds a second of transforming activations, diagonals and subsets included, as a share of a large product's.
# CPU: about what `make bench` finds as ranks grow; CUDA: an assumption, from the transform being bound by memory.
TRANSFORM_SPEED = {"cpu": 1 / 4, "cuda": 1 / 16}


class ComputePath(StrEnum):
    """The ways to compute an adapted layer."""

    FACTORED = "factored"
    MERGED_FORWARD = "merged in forward"
    MERGED_BACKWARD = "merged in backward"
    MERGED = "merged"
    FULL = "full"
    TRANSFORMED = "transformed"


_forced: ContextVar[ComputePath | None] = ContextVar("forced", default=None)


@contextlib.contextmanager
def force_path(path: ComputePath | str) -> Iterator[None]:
    """Take one path wherever a layer has it, for tests and benchmarks."""
    token = _forced.set(ComputePath(path))
    try:
        yield
    finally:
        _forced.reset(token)


def cheapest_path(costs: Mapping[ComputePath, float]) -> ComputePath:
    """The path of least cost, or the one that `force_path` asks for."""
    asked = _forced.get()
    return (
        asked if asked is not None and asked in costs else min(costs, key=lambda path: costs[path])
    )


def low_rank_costs(
    tokens: int,
    in_features: int,
    out_features: int,
    rank: int,
    *,
    dtype: torch.dtype,
    trains_a: bool = True,
) -> dict[ComputePath, float]:
    """Costs of the paths every update with factors has, in multiply-adds."""
    t, i, o, r = tokens, in_features, out_features, rank
    common = float(t * r * (i + o) * (2 if trains_a else 1))
    forward, backward, merged = t * r * o, t * r * (i if trains_a else i + o), r * i * o
    costs = {ComputePath.FACTORED: common + forward + backward}
    if dtype in (torch.float32, torch.float64):
        # With A frozen autograd would keep A x and the update's output, T (r + out) numbers: no path keeps more
        kept = not trains_a and t >= i
        costs[ComputePath.MERGED_FORWARD] = common + merged + backward
        costs[ComputePath.MERGED_BACKWARD] = common + forward + merged
        costs[ComputePath.MERGED] = common + merged + (0 if kept else merged)
        if trains_a or i <= r + o:
            costs[ComputePath.FULL] = 4.0 * merged + t * i * o
    return costs


def transform_cost(tokens: int, in_features: int, out_features: int, device: torch.device) -> float:
    """Cost of transforming activations on both sides, in multiply-adds of a large product."""
    orders = (next_power_of_two(in_features), next_power_of_two(out_features))
    work = sum(n * sum(kronecker_sizes(n)) for n in orders)
    return 3 * tokens * work / TRANSFORM_SPEED.get(device.type, TRANSFORM_SPEED["cpu"])
