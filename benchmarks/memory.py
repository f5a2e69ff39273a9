"""What a training step holds in memory, counted in bytes rather than sampled."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


def saved_for_backward(forward: Callable[[], Tensor], model: nn.Module) -> int:
    """Bytes that autograd keeps from forward to backward, beside the model's parameters and buffers.

    Every storage counts once, however many operations or views keep it. Tensors that code hides from autograd's hooks
    (by hooks of its own, or on a context) are not seen here; `footprint` sees them.
    """
    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # a freed storage's address could come again

    def pack(tensor: Tensor) -> Tensor:
        tensor = (
            tensor.detach()
        )  # one with a graph would hold the graph that holds it: none of it were ever freed
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            alive.append(tensor)
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(sizes.values())


def footprint(forward: Callable[[], Tensor], device: torch.device) -> dict[str, int]:
    """Run one step and count what it allocates beyond what was there before.

    On a GPU the allocator's own statistics are read; on a CPU, which has none, every allocation and release that the
    profiler records is added up (scratch space that libraries take past torch's allocator is not seen).

    Args:
        forward: Gives the loss.
        device: Where it runs.

    Returns:
        "held": bytes in use when forward has returned, "peak": most bytes in use at any time of the step; on a GPU
        also "resident", the bytes in use before it.
    """
    return _on_gpu(forward, device) if device.type == "cuda" else _on_cpu(forward)


def _on_gpu(forward: Callable[[], Tensor], device: torch.device) -> dict[str, int]:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    resident = torch.cuda.memory_allocated(device)
    loss = forward()
    held = torch.cuda.memory_allocated(device) - resident
    loss.backward()
    torch.cuda.synchronize(device)
    return {
        "held": held,
        "peak": torch.cuda.max_memory_allocated(device) - resident,
        "resident": resident,
    }


def _on_cpu(forward: Callable[[], Tensor]) -> dict[str, int]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        with torch.profiler.record_function(BACKWARD_MARK + "/forward"):
            loss = forward()
        with torch.profiler.record_function(BACKWARD_MARK):
            loss.backward()
    return _summed(profile.profiler.kineto_results.events())


BACKWARD_MARK = "benchmarks/backward"


def _summed(events: list[Any]) -> dict[str, int]:
    (backward,) = (event.start_ns() for event in events if event.name() == BACKWARD_MARK)
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    )
    held = peak = now = 0
    for moment, change in changes:
        now += change
        peak = max(peak, now)
        if moment < backward:
            held = now
    return {"held": held, "peak": peak}
