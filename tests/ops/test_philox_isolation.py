"""Draws depend only on their name and leave the global generators unchanged."""

import hashlib
import inspect
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from rlora.ops import philox
from rlora.ops.philox import RandomSource


def all_draws(source):
    return [
        source.uniform("u", (9, 1000), 0.3),
        source.signs("s", (999,)),
        source.normal("n", (5000,)),
        source.sparse_signs("z", (777,), 0.2),
        source.permutation("p", 5000),
        source.subset("q", 300, 20),
    ]


def fingerprint(draws):
    return hashlib.sha256(b"".join(draw.numpy().tobytes() for draw in draws)).hexdigest()


SCRIPT = f"""
import hashlib
import torch
from rlora.ops.philox import RandomSource
{inspect.getsource(all_draws)}
{inspect.getsource(fingerprint)}
torch.set_num_threads(3)
torch.manual_seed(3)
torch.set_default_dtype(torch.float64)
print(fingerprint(all_draws(RandomSource(11, "layer"))))
"""


def test_another_process_draws_the_same_bytes():
    """Another hash seed, number of threads, global seed and default dtype change nothing."""
    environment = {**os.environ, "PYTHONHASHSEED": "4321", "OMP_NUM_THREADS": "3"}
    command = [sys.executable, "-c", SCRIPT]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == fingerprint(all_draws(RandomSource(11, "layer")))


def test_concurrent_threads_draw_the_same_bytes():
    expected = {seed: fingerprint(all_draws(RandomSource(seed, "layer"))) for seed in range(4)}
    with ThreadPoolExecutor(8) as pool:
        digests = list(
            pool.map(
                lambda seed: (seed, fingerprint(all_draws(RandomSource(seed, "layer")))),
                [0, 1, 2, 3] * 8,
            )
        )
    assert all(expected[seed] == digest for seed, digest in digests)


def test_the_default_dtype_does_not_change_values():
    before = all_draws(RandomSource(1, "layer"))
    torch.set_default_dtype(torch.float64)
    try:
        after = all_draws(RandomSource(1, "layer"))
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(before, after, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_global_generators_are_neither_used_nor_advanced():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    first = fingerprint(all_draws(RandomSource(1, "layer")))
    torch.manual_seed(2), np.random.seed(2), random.seed(2)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    assert fingerprint(all_draws(RandomSource(1, "layer"))) == first
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]


def test_nothing_is_generated_on_the_meta_device(monkeypatch):
    monkeypatch.setattr(
        philox, "raw_words", lambda *_: pytest.fail("generated words for the meta device")
    )
    draws = all_draws(RandomSource(0, "x", "meta"))
    assert all(draw.is_meta for draw in draws)
    assert [draw.dtype for draw in draws] == [torch.float32] * 4 + [torch.int64] * 2
    assert [tuple(draw.shape) for draw in draws] == [
        (9, 1000),
        (999,),
        (5000,),
        (777,),
        (5000,),
        (20,),
    ]


def test_changing_a_draw_in_place_does_not_affect_later_draws():
    source = RandomSource(0, "x")
    before = [draw.clone() for draw in all_draws(source)]
    for draw in all_draws(source):
        draw.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, all_draws(source), strict=True))
