"""Loader processes: how many there are by default, and that no number of them changes anything."""

import os

import numpy as np
import pytest
import torch

from rlora.data import collate as module
from rlora.data.collate import EncodedSplit, Padding, default_workers, make_loader
from rlora.data.sampler import EvalBatchSampler, TrainBatchSampler
from rlora.data.tokenize import Tokens


@pytest.fixture
def split():
    lengths = np.random.default_rng(0).integers(1, 12, size=50)
    ids = np.arange(lengths.sum(), dtype=np.int32) % 97
    return EncodedSplit(
        Tokens(ids, np.concatenate([[0], lengths.cumsum()]), None), np.arange(50) % 2
    )


@pytest.fixture
def machine(monkeypatch):
    """Function (cuda, processors, affinity): the machine the loaders see."""

    def pretend(*, cuda, processors, affinity=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(os, "cpu_count", lambda: 64 if affinity else processors)
        if affinity:
            monkeypatch.setattr(
                os, "sched_getaffinity", lambda _: set(range(processors)), raising=False
            )
        else:
            monkeypatch.delattr(os, "sched_getaffinity", raising=False)

    return pretend


@pytest.mark.parametrize("affinity", [True, False])
@pytest.mark.parametrize(("processors", "workers"), [(1, 0), (2, 1), (4, 3), (5, 4), (64, 4)])
def test_beside_a_gpu_up_to_four_and_one_processor_is_left(machine, affinity, processors, workers):
    machine(cuda=True, processors=processors, affinity=affinity)
    assert default_workers() == workers


def test_without_a_gpu_none(machine):
    machine(cuda=False, processors=64)
    assert default_workers() == 0


@pytest.mark.parametrize(("asked", "given"), [(None, 2), (0, 0), (1, 1)])
def test_a_number_wins(machine, split, asked, given):
    machine(cuda=True, processors=3)
    sampler = EvalBatchSampler(split.tokens.lengths, 8)
    loader = make_loader(split, sampler, Padding(0), num_workers=asked, seed=0)
    assert loader.num_workers == given
    assert loader.pin_memory
    assert loader.persistent_workers == (given > 0)
    assert (loader.prefetch_factor or 0) >= (2 if given else 0)


def batches(split, workers, seed=3):
    sampler = TrainBatchSampler(split.tokens.lengths, 4, seed=seed)
    loader = make_loader(split, sampler, Padding(0), num_workers=workers, seed=seed)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        sampler.skip(3 * epoch)
        yield from loader


def assert_same_batch(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_no_number_of_workers_changes_a_batch_or_the_global_generator(split):
    state = torch.get_rng_state()
    alone, helped = list(batches(split, 0)), list(batches(split, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(alone) == len(helped) == 13 + 10
    for ours, theirs in zip(alone, helped, strict=True):
        assert_same_batch(ours, theirs)


def test_every_task_leaves_the_number_to_the_machine(compose, root):
    for file in (root / "conf" / "task").glob("*.yaml"):
        assert compose(f"task={file.stem}").config["task"]["num_workers"] is None, file


def test_the_module_asks_once(split, monkeypatch):
    monkeypatch.setattr(
        module, "default_workers", lambda: pytest.fail("asked in spite of a number")
    )
    make_loader(split, EvalBatchSampler(split.tokens.lengths, 8), Padding(0), num_workers=0, seed=0)
