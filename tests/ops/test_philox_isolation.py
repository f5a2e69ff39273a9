"""Draws depend on their name alone, not on process, threads or defaults, and leave the global generators be."""

import hashlib
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from rlora.ops import philox as portable
from rlora.ops.philox import RandomSource

FINGERPRINT = """
import hashlib, sys
import torch
from rlora.ops.philox import RandomSource
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(int(sys.argv[1]))
torch.set_default_dtype(torch.float64 if sys.argv[1] == "3" else torch.float32)
source = RandomSource(11, "layer")
draws = [source.uniform("u", (9, 1000), 0.3), source.signs("s", (999,)), source.normal("n", (5000,)),
         source.sparse_signs("z", (777,), 0.2), source.permutation("p", 5000), source.subset("q", 300, 20)]
print(hashlib.sha256(b"".join(d.numpy().tobytes() for d in draws)).hexdigest())
"""


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


@pytest.mark.parametrize(("threads", "hash_seed"), [(1, "0"), (3, "4321")])
def test_other_processes_draw_the_same_bytes(threads, hash_seed):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", FINGERPRINT, str(threads)]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == fingerprint(all_draws(RandomSource(11, "layer")))


def test_concurrent_threads_draw_the_same_bytes():
    expected = {seed: fingerprint(all_draws(RandomSource(seed, "layer"))) for seed in range(4)}
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(
                lambda seed: (seed, fingerprint(all_draws(RandomSource(seed, "layer")))),
                [0, 1, 2, 3] * 8,
            )
        )
    assert all(expected[seed] == digest for seed, digest in found)


def test_the_default_dtype_changes_nothing():
    before = all_draws(RandomSource(1, "layer"))
    torch.set_default_dtype(torch.float64)
    try:
        after = all_draws(RandomSource(1, "layer"))
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(before, after, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_the_global_generators_neither_move_nor_matter():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    first = fingerprint(all_draws(RandomSource(1, "layer")))
    torch.manual_seed(2), np.random.seed(2), random.seed(2)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    assert fingerprint(all_draws(RandomSource(1, "layer"))) == first
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]


def test_nothing_is_drawn_on_the_meta_device(monkeypatch):
    monkeypatch.setattr(
        portable, "raw_words", lambda *_: pytest.fail("drew words for the meta device")
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


def test_what_is_drawn_can_be_changed_in_place_without_a_trace():
    source = RandomSource(0, "x")
    before = [draw.clone() for draw in all_draws(source)]
    for draw in all_draws(source):
        draw.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, all_draws(source), strict=True))
