"""Memory of a training step, counted in bytes instead of sampled."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

BACKWARD_MARK = "benchmarks/backward"  # event in the profile where forward ends


def saved_for_backward(forward: Callable[[], Tensor], model: nn.Module) -> int:
    """Return the bytes that autograd saves from forward to backward.

    The model's parameters and buffers do not count. Every storage counts once, however many
    operations or views save it. Tensors that code hides from autograd's hooks, with other hooks or
    on a context, are not counted here but in `footprint`.
    """
    weights = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # keeps the addresses of storages from being reused

    def pack(tensor: Tensor) -> Tensor:
        # A tensor with a graph would hold the graph that holds it, and neither would be freed.
        tensor = tensor.detach()
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            alive.append(tensor)
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(sizes.values())


def footprint(forward: Callable[[], Tensor], device: torch.device) -> dict[str, int]:
    """Run one step and count the bytes that it allocates.

    On a GPU the statistics of the allocator are read. On a CPU there are none, so all allocations
    and releases that the profiler records are added up. Scratch memory that libraries allocate
    outside torch is not included.

    Args:
        forward: Returns the loss.
        device: Device of the model.

    Returns:
        "held": bytes in use after forward, "peak": maximum of the bytes in use during the step,
        both beyond those before it; on a GPU also "resident", the bytes in use before it.
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
