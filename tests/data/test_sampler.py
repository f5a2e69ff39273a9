"""Batch samplers: coverage, order, similar lengths, skipping and ranks."""

from itertools import chain

import numpy as np
import pytest
import torch

from rlora.data.sampler import EvalBatchSampler, TrainBatchSampler

LENGTHS = np.random.default_rng(0).integers(3, 120, size=1003)


def flat(batches):
    return list(chain.from_iterable(batches))


def epoch(sampler, number=0):
    sampler.set_epoch(number)
    return list(sampler)


@pytest.mark.parametrize("size", [1, 16, 1003, 2000])
def test_each_index_once_per_epoch_and_short_batch_last(size):
    batches = epoch(TrainBatchSampler(LENGTHS, size, seed=0))
    assert sorted(flat(batches)) == list(range(1003))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert len(batches) == len(TrainBatchSampler(LENGTHS, size, seed=0))


def test_order_depends_on_seed_and_epoch_only():
    reference = epoch(TrainBatchSampler(LENGTHS, 16, seed=3), 5)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    other = TrainBatchSampler(LENGTHS, 16, seed=3)
    epoch(other, 0)
    state = torch.get_rng_state()
    assert epoch(other, 5) == reference
    assert torch.equal(torch.get_rng_state(), state)
    assert epoch(other, 6) != reference
    assert epoch(TrainBatchSampler(LENGTHS, 16, seed=4), 5) != reference


def test_batches_have_similar_lengths():
    batches = epoch(TrainBatchSampler(LENGTHS, 16, seed=0))
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    shuffled = np.random.default_rng(1).permutation(1003)[:992].reshape(62, 16)
    assert padded < 1.15 * LENGTHS.sum() < sum(16 * LENGTHS[row].max() for row in shuffled)


def test_skip_applies_to_the_next_iteration_only():
    sampler = TrainBatchSampler(LENGTHS, 16, seed=0)
    whole = epoch(sampler, 2)
    sampler.skip(10)
    sampler.set_epoch(2)
    assert len(sampler) == len(whole)
    assert list(sampler) == whole[10:]
    assert list(sampler) == whole
    with pytest.raises(ValueError, match=r"Cannot skip 64 batches of an epoch of 63"):
        sampler.skip(64)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_batches_of_an_epoch(world):
    samplers = [
        TrainBatchSampler(LENGTHS, 16, seed=0, rank=rank, world_size=world) for rank in range(world)
    ]
    ranks = [epoch(sampler, 1) for sampler in samplers]
    assert (
        {len(batches) for batches in ranks}
        == {62 // world}
        == {len(sampler) for sampler in samplers}
    )
    rows = [row for batches in ranks for batch in batches for row in batch]
    assert len(rows) == len(set(rows)) == 62 // world * world * 16
    one = epoch(TrainBatchSampler(LENGTHS, 16, seed=0), 1)
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == one[
        : 62 // world * world
    ]


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match=r"lower task\.batch_size"):
        TrainBatchSampler([5] * 7, 4, seed=0, world_size=2)
    with pytest.raises(ValueError, match="seed=-1"):
        TrainBatchSampler([5] * 7, 4, seed=-1)


def test_evaluation_is_longest_first_without_padding_rows():
    ranks = [list(EvalBatchSampler(LENGTHS, 100, rank=rank, world_size=2)) for rank in range(2)]
    assert [len(batches) for batches in ranks] == [6, 5]
    whole = list(EvalBatchSampler(LENGTHS, 100))
    assert sorted(flat(ranks[0] + ranks[1])) == sorted(flat(whole)) == list(range(1003))
    assert (np.diff(LENGTHS[flat(whole)]) <= 0).all()
