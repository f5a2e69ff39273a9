"""Fair timing: the candidates of a comparison take turns, and the first place rotates."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Action = Callable[[], object]
Prepare = Callable[[], Action]  # the preparation is not timed, the returned action is
Say = Callable[[str], None]


def synchronize(device: torch.device) -> None:
    """Wait for a GPU to finish its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(action: Action, device: torch.device, repeats: int = 1) -> float:
    """Return the seconds of an action, the mean of `repeats` runs in a row."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return the names in cyclic order, starting at position `turn`."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]


def take_turns(
    candidates: Mapping[str, Prepare],
    rounds: int,
    device: torch.device,
    *,
    at_least: float = 0.0,
    say: Say | None = None,
) -> dict[str, list[float]]:
    """Time every candidate once per round.

    Args:
        candidates: Candidates by name, warmed up already unless `at_least` is given.
        rounds: Number of rounds.
        device: Device of the candidates.
        at_least: Minimum seconds of one timing. A faster action is repeated, so it must be
            repeatable.
        say: Called with the number of each round that starts.

    Returns:
        Seconds of each round by name.
    """
    names = list(candidates)
    repeats = {
        name: _repeats(candidates[name], device, at_least) if at_least else 1 for name in names
    }
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        if say:
            say(f"round {turn + 1} of {rounds}")
        gc.collect()
        for name in rotated(names, turn):
            times[name].append(seconds_of(candidates[name](), device, repeats[name]))
    return times


def _repeats(prepare: Prepare, device: torch.device, at_least: float) -> int:
    action = prepare()
    action()  # warm-up
    return max(1, min(1000, math.ceil(at_least / seconds_of(action, device))))


def compare(times: Mapping[str, Sequence[float]], reference: str) -> dict[str, dict[str, Any]]:
    """Compute medians and their ratios to the reference.

    Args:
        times: Seconds of each round by name.
        reference: Name of the denominator.

    Returns:
        By name: "median_s", "ratio" (of the medians), "median_of_ratios" (of the rounds) and
        "rounds_s".
    """
    base = times[reference]
    return {
        name: {
            "median_s": statistics.median(seconds),
            "ratio": statistics.median(seconds) / statistics.median(base),
            "median_of_ratios": statistics.median(
                a / b for a, b in zip(seconds, base, strict=True)
            ),
            "rounds_s": list(seconds),
        }
        for name, seconds in times.items()
    }
