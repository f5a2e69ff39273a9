"""The cost model: an adapted layer runs by the compute path that costs least for T tokens.

A cost counts the multiply-adds of a training step in addition to those of the frozen layer, 2 T in
out. For factors B (out, r) and A (r, in), all low-rank paths compute A x and the gradients of B and
A in T r (2 in + 2 out), or T r (in + out) if A is frozen. On top of that, forward and backward are
chosen separately:

    factored     y = W x + B (A x)             T r out
                 gx = W^T g + A^T (B^T g)      T r in; frozen A: T r (in + out)
    merged       y = (W + B A) x               r in out
                 gx = (W + B A)^T g            r in out; frozen A: 0 if W + B A is kept

The other paths are chosen as a whole:

    full         y = (W + dW) x, and the gradients through that of dW
                                               4 r in out + T in out
    transformed  transforms of activations     3 T (n(in) f(in) + n(out) f(out)) / SPEED

f(n) is the sum of the sizes of H_n's Kronecker factors. Merged and full round W + dW once. In half
precision that would lose small changes, so that low-rank updates are added to activations there.
"""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from enum import StrEnum

import torch

from rlora.ops.hadamard import kronecker_sizes, next_power_of_two

# Multiply-adds per second of transforming activations, diagonals and subsets included, relative to
# a large matrix product. CPU: measured by `make bench` over growing ranks. CUDA: an assumption,
# because the transform is bound by memory.
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
    """Use one path in every layer that has it, for tests and benchmarks."""
    token = _forced.set(ComputePath(path))
    try:
        yield
    finally:
        _forced.reset(token)


def cheapest_path(costs: Mapping[ComputePath, float]) -> ComputePath:
    """Return the path of least cost, or the one that `force_path` sets."""
    forced = _forced.get()
    # a layer without the forced path keeps its own choice, so that one context serves all methods
    if forced is not None and forced in costs:
        return forced
    return min(costs, key=lambda path: costs[path])


def low_rank_costs(
    tokens: int,
    in_features: int,
    out_features: int,
    rank: int,
    *,
    dtype: torch.dtype,
    trains_a: bool = True,
) -> dict[ComputePath, float]:
    """Return the costs of the paths of an update with factors, in multiply-adds."""
    t, r = tokens, rank
    i, o = in_features, out_features
    common = float(t * r * (i + o) * (2 if trains_a else 1))
    forward = t * r * o
    backward = t * r * (i if trains_a else i + o)
    merged = r * i * o
    costs = {ComputePath.FACTORED: common + forward + backward}
    if dtype in (torch.float32, torch.float64):
        # With a frozen A, autograd would keep A x and the update's output, T (r + out) numbers. The
        # merged path may keep W + B A, out in numbers: it saves a product only for T >= in, where
        # that is no more. The full path keeps x, T in numbers: allowed for in <= r + out.
        kept = not trains_a and t >= i
        costs[ComputePath.MERGED_FORWARD] = common + merged + backward
        costs[ComputePath.MERGED_BACKWARD] = common + forward + merged
        costs[ComputePath.MERGED] = common + merged + (0 if kept else merged)
        if trains_a or i <= r + o:
            costs[ComputePath.FULL] = 4.0 * merged + t * i * o
    return costs


def transform_cost(tokens: int, in_features: int, out_features: int, device: torch.device) -> float:
    """Return the cost of transforming activations on both sides, in equivalent multiply-adds."""
    orders = (next_power_of_two(in_features), next_power_of_two(out_features))
    work = sum(n * sum(kronecker_sizes(n)) for n in orders)
    return 3 * tokens * work / TRANSFORM_SPEED.get(device.type, TRANSFORM_SPEED["cpu"])
