"""Training steps of one checkout, timed on request: the child process of `benchmarks.baseline`.

The process has one checkout's `benchmarks` and `rlora` on its path. So this file may only use what
the other checkout has, too: `Settings`, `quick`, `variants` and `steps._model`.

A request is a JSON line: [layers, adapter] builds that model and runs one step to warm up, null
times one step. The reply is a line with the seconds.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator

import torch

from benchmarks import machine, models, settings, steps, timing, variants


def serve(requests: Iterable[str], device: torch.device, *, is_quick: bool) -> Iterator[float]:
    """Yield the seconds of each request."""
    chosen = (settings.quick() if is_quick else settings.Settings()).steps
    known = {variant.name: variant for variant in variants.variants(chosen.ranks)}
    for request in map(json.loads, requests):
        if request:
            layers, adapter = request
            model, _ = steps._model(chosen, known[adapter], chosen.targets[layers], device)
            batch = models.random_batch(
                model, "classification", chosen.batch, chosen.length, device
            )
            step = models.step_of(models.loss_of(model, batch))
        yield timing.seconds_of(step, device)


def main() -> None:
    """Answer requests on stdin until it is closed."""
    device_name, quick_word, threads = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for a reply
    machine.keep_freed_memory()
    if threads != "0":
        torch.set_num_threads(int(threads))
    for seconds in serve(sys.stdin, torch.device(device_name), is_quick=quick_word == "quick"):
        print(seconds, file=replies, flush=True)


if __name__ == "__main__":
    main()
