"""Part "hadamard": the fast transform, the dense product and a copy, by length n."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.settings import HadamardSettings
from benchmarks.timing import Action, Prepare, Say, compare, take_turns
from rlora.ops.hadamard import fwht, hadamard_matrix, kronecker_sizes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def measure(settings: HadamardSettings, device: torch.device, say: Say) -> dict[str, Any]:
    """Time the transform for every n.

    Returns:
        By dtype: {"orders": {n: {"copy", "fwht", "dense": times, nanoseconds per number and, for
        the last two, multiply-adds per second}}, "growth": fit}.
    """
    kinds = ["float32", "bfloat16"] if device.type == "cuda" else ["float32"]
    return {kind: _one_dtype(settings, kind, device, say) for kind in kinds}


def _one_dtype(
    settings: HadamardSettings, kind: str, device: torch.device, say: Say
) -> dict[str, Any]:
    orders = {}
    for n in settings.orders:
        say(f"{kind}, n = {n}")
        orders[str(n)] = _one_order(settings, n, DTYPES[kind], device)
    times = [orders[str(n)]["fwht"]["ns_per_number"] for n in settings.orders]
    return {"orders": orders, "growth": fit_in_log(settings.orders, times)}


def _one_order(
    settings: HadamardSettings, n: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    numbers = 2**settings.log2_numbers
    x = torch.randn(numbers // n, n, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    target = torch.empty_like(x)
    actions: dict[str, Action] = {"copy": lambda: target.copy_(x), "fwht": lambda: fwht(x)}
    if n <= settings.largest_dense:
        matrix = hadamard_matrix(n, dtype, device)
        actions["dense"] = lambda: x @ matrix
    candidates: dict[str, Prepare] = {
        name: partial(_same, action) for name, action in actions.items()
    }
    times = compare(
        take_turns(candidates, settings.rounds, device, at_least=settings.at_least), "copy"
    )
    work = {"fwht": numbers * sum(kronecker_sizes(n)), "dense": numbers * n}  # multiply-adds
    for name, facts in times.items():
        facts["ns_per_number"] = 1e9 * facts["median_s"] / numbers
        if name in work:
            facts["multiply_adds_per_s"] = work[name] / facts["median_s"]
    return times


def _same(action: Action) -> Action:
    return action


def fit_in_log(orders: Sequence[int], times: Sequence[float]) -> dict[str, float]:
    """Fit time = constant + slope log2 n by least squares.

    Args:
        orders: n.
        times: Nanoseconds per transformed number.

    Returns:
        "constant" and "slope" in nanoseconds, "r2" and "worst", the largest relative deviation from
        the fit.
    """
    logs = [math.log2(n) for n in orders]
    center, mean = sum(logs) / len(logs), sum(times) / len(times)
    spread = sum((x - center) ** 2 for x in logs)
    slope = sum((x - center) * (y - mean) for x, y in zip(logs, times, strict=True)) / spread
    fitted = [mean + slope * (x - center) for x in logs]
    total = sum((y - mean) ** 2 for y in times)
    residual = sum((y - f) ** 2 for y, f in zip(times, fitted, strict=True))
    return {
        "constant": mean - slope * center,
        "slope": slope,
        "r2": 1.0 - residual / total if total else 1.0,
        "worst": max(abs(y - f) / abs(f) for y, f in zip(times, fitted, strict=True)),
    }
