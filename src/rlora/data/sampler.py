"""Reproducible batch samplers for examples of similar length, on one or several processes."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from rlora.data.splits import generator


class TrainBatchSampler(Sampler[list[int]]):
    """Shuffled training batches of similar length; their order depends only on seed and epoch.

    A seeded permutation is cut into windows of `window` batches. Each window is sorted by length
    and cut into batches, and the batches of the epoch are shuffled. With several processes, rank r
    takes the batches r, r + world_size, ...: all ranks get the same number of full batches, and the
    rest is dropped. A single process keeps the short batch as its last.

    Args:
        lengths: Number of tokens of each example (N,).
        batch_size: Examples per batch and process.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.
        window: Number of batches sorted together; more gives less padding and less randomness.

    Raises:
        ValueError: The seed is negative, or there are too few examples for one batch per process.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        window: int = 50,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed={seed} is invalid: expected 0 or a positive integer.")
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.window = window
        self.epoch = 0
        self._skip = 0
        if len(self) == 0:
            raise ValueError(
                f"task.batch_size={batch_size} on {world_size} processes needs "
                f"{batch_size * world_size} training examples, but there are "
                f"{len(self.lengths)}; lower task.batch_size."
            )

    @property
    def sampler(self) -> "TrainBatchSampler":
        """This object: Lightning calls `set_epoch` on the `sampler` of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """Let the next iteration, and only that one, skip its first batches.

        Raises:
            ValueError: `batches` is negative or more than an epoch has.
        """
        if not 0 <= batches <= len(self):
            raise ValueError(
                f"Cannot skip {batches} batches of an epoch of {len(self)}; pass 0..{len(self)}."
            )
        self._skip = batches

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.size)
        return full // self.world_size if self.world_size > 1 else full + bool(rest)

    def __iter__(self) -> Iterator[list[int]]:
        # No generator function: it would read epoch and skip at the first batch, not when created.
        batches = self._epoch_batches()[self.rank :: self.world_size][: len(self)]
        start, self._skip = self._skip, 0
        return iter(batches[start:])

    def _epoch_batches(self) -> list[list[int]]:
        random = generator(self.seed, self.epoch)
        rows = random.permutation(len(self.lengths))
        full = len(rows) // self.size
        head, tail = rows[: full * self.size], rows[full * self.size :]
        span = self.window * self.size
        windows = [head[start : start + span] for start in range(0, len(head), span)]
        ordered = [window[np.argsort(self.lengths[window], kind="stable")] for window in windows]
        batches = (
            np.concatenate([*ordered, head[:0]])
            .reshape(full, self.size)[random.permutation(full)]
            .tolist()
        )
        if self.world_size == 1 and len(tail):
            batches.append(tail.tolist())
        return batches


class EvalBatchSampler(Sampler[list[int]]):
    """Batches with every example once, longest first; rank r takes batches r, r + world_size, ...

    Longest first, because a batch that exceeds the memory then fails at once. No rank gets padding
    rows.

    Args:
        lengths: Number of tokens of each example (N,).
        batch_size: Examples per batch.
        rank: This process.
        world_size: Number of processes; the ranks' numbers of batches differ by at most one.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        self.batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
