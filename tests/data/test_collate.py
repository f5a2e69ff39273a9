"""Loader processes: their default number, and that no number of them changes a batch."""

import os

import numpy as np
import pytest
import torch

from rlora.data import collate as module
from rlora.data.collate import EncodedSplit, PaddingCollator, default_workers, make_loader
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
    """Function (cuda, processors, affinity) that sets what the loaders see of the machine."""

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
def test_with_a_gpu_there_are_up_to_four_workers_and_one_free_processor(
    machine, affinity, processors, workers
):
    machine(cuda=True, processors=processors, affinity=affinity)
    assert default_workers() == workers


def test_without_a_gpu_there_are_no_workers(machine):
    machine(cuda=False, processors=64)
    assert default_workers() == 0


@pytest.mark.parametrize(("setting", "workers"), [(None, 2), (0, 0), (1, 1)])
def test_a_set_number_of_workers_overrides_the_default(machine, split, setting, workers):
    machine(cuda=True, processors=3)
    sampler = EvalBatchSampler(split.lengths, 8)
    loader = make_loader(split, sampler, PaddingCollator(0), num_workers=setting, seed=0)
    assert loader.num_workers == workers
    assert loader.pin_memory
    assert loader.persistent_workers == (workers > 0)
    assert (loader.prefetch_factor or 0) >= (2 if workers else 0)


def batches(split, workers, seed=3):
    sampler = TrainBatchSampler(split.lengths, 4, seed=seed)
    loader = make_loader(split, sampler, PaddingCollator(0), num_workers=workers, seed=seed)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        sampler.skip(3 * epoch)
        yield from loader


def test_no_number_of_workers_changes_a_batch_or_the_global_generator(split):
    state = torch.get_rng_state()
    alone, parallel = list(batches(split, 0)), list(batches(split, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(alone) == len(parallel) == 13 + 10
    for ours, theirs in zip(alone, parallel, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_no_task_sets_the_number_of_workers(task_config, root):
    names = [file.stem for file in (root / "conf" / "task").glob("[!_]*.yaml")]
    assert len(names) > 10
    for name in names:
        assert task_config(name)["num_workers"] is None, name


def test_a_set_number_of_workers_skips_the_default(split, monkeypatch):
    monkeypatch.setattr(
        module, "default_workers", lambda: pytest.fail("called in spite of a number")
    )
    make_loader(
        split, EvalBatchSampler(split.lengths, 8), PaddingCollator(0), num_workers=0, seed=0
    )
