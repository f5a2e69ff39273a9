"""Tokenized splits as padded batches."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rlora.data.batch import Batch, make_batch
from rlora.data.tokenize import Tokens, special_token


@dataclass(frozen=True)
class EncodedSplit(Dataset[dict[str, Any]]):
    """Tokenized examples of one split with their labels.

    Attributes:
        tokens: Tokens of N examples.
        labels: Class ids (int64) or scores (float32) (N,), or None.
    """

    tokens: Tokens
    labels: NDArray[np.generic] | None

    def __len__(self) -> int:
        return len(self.tokens.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each example (N,)."""
        return self.tokens.lengths

    def __getitem__(self, index: int) -> dict[str, Any]:
        span = slice(self.tokens.offsets[index], self.tokens.offsets[index + 1])
        row: dict[str, Any] = {"input_ids": self.tokens.input_ids[span], "index": index}
        if self.tokens.token_type_ids is not None:
            row["token_type_ids"] = self.tokens.token_type_ids[span]
        if self.labels is not None:
            row["labels"] = self.labels[index]
        return row


@dataclass(frozen=True)
class PaddingCollator:
    """Collates rows into a batch padded on the right to its longest row.

    The padding follows the text, whatever the tokenizer's `padding_side` says. Models count
    positions from the left end of a row, so that padding there would change the output for a row.

    Attributes:
        token: Id that fills `input_ids`.
        token_type: Id that fills `token_type_ids`.
    """

    token: int
    token_type: int = 0

    @classmethod
    def of(cls, tokenizer: Any) -> "PaddingCollator":
        """Return the collator of a tokenizer, which pads with the padding or the end-of-text token.

        Raises:
            ValueError: The tokenizer has neither.
        """
        token = special_token(tokenizer, "for padding", "pad_token", "eos_token")
        return cls(token, int(tokenizer.pad_token_type_id))

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """Return a batch with labels (B,) and inputs (B, T), with `token_type_ids` if given.

        An empty text, to which GPT-2's tokenizer adds no special token, becomes one padding token,
        which the model attends to.
        """
        lengths = [max(1, len(row["input_ids"])) for row in rows]
        inputs = {
            "input_ids": fill_right([row["input_ids"] for row in rows], self.token, min_width=1),
            "attention_mask": fill_right([np.ones(length) for length in lengths], 0),
        }
        if "token_type_ids" in rows[0]:
            types = [row["token_type_ids"] for row in rows]
            inputs["token_type_ids"] = fill_right(types, self.token_type, min_width=1)
        labels = None
        if "labels" in rows[0]:
            labels = torch.from_numpy(np.stack([row["labels"] for row in rows]))
        index = torch.tensor([row["index"] for row in rows], dtype=torch.int64)
        return make_batch(inputs, index=index, labels=labels, num_tokens=sum(lengths))


def fill_right(rows: Sequence[NDArray[Any]], fill: int, *, min_width: int = 0) -> Tensor:
    """Return rows of different lengths as one int64 tensor, with `fill` behind the shorter ones."""
    width = max(min_width, *(len(row) for row in rows))
    filled = np.full((len(rows), width), fill, dtype=np.int64)
    for target, row in zip(filled, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(filled)


def default_workers() -> int:
    """Return the number of loader processes: 0 without CUDA, else up to four, with one CPU free.

    Without CUDA the model needs all CPUs, and padding cached tokens takes little time.
    """
    if not torch.cuda.is_available():
        return 0
    # The affinity counts the CPUs that this process may use; macOS does not have it.
    has_affinity = hasattr(os, "sched_getaffinity")
    processors = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(4, processors - 1)


def make_loader(
    split: Dataset[dict[str, Any]],
    sampler: Iterable[list[int]],
    collate: Callable[[list[dict[str, Any]]], Batch],
    *,
    num_workers: int | None,
    seed: int,
) -> DataLoader[Any]:
    """Return a loader of a split with persistent workers and, with CUDA, pinned memory.

    Args:
        split: The examples.
        sampler: Rows of each batch.
        collate: Makes a batch of rows.
        num_workers: Loader processes, or None for `default_workers`; no number changes the batches.
        seed: Seed of the loader's generator.
    """
    num_workers = default_workers() if num_workers is None else num_workers
    return DataLoader(
        split,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
        pin_memory=torch.cuda.is_available(),
        # Without a generator every new iteration advances the global one, and one more validation
        # pass would change the dropout of all later training steps.
        generator=torch.Generator().manual_seed(seed),
    )
