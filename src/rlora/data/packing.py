"""Prompts and the texts that follow them, as sequences of tokens whose loss is on the texts alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rlora.data.batch import Batch, make_batch
from rlora.data.tokenize import Tokens

IGNORED = -100  # a label without a loss


@dataclass(frozen=True)
class Layout:
    """The special tokens of a sequence: begin, prompt, middle, text, end.

    Attributes:
        begin: What the tokenizer itself puts before a text: LLaMA's <s>, nothing for GPT-2.
        middle: What parts prompt and text.
        end: What ends the text, and its generation.
    """

    begin: tuple[int, ...]
    middle: tuple[int, ...]
    end: int

    @classmethod
    def of(cls, tokenizer: Any, *, parted: bool) -> "Layout":
        """Read it off a tokenizer; where ``parted``, its end token stands in the middle too, as the LoRA scripts do.

        Raises:
            ValueError: the tokenizer has no token that ends a text.
        """
        end = (
            tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        )
        if end is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no end-of-text token; choose another model."
            )
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = tokenizer("a")["input_ids"]
        return cls(tuple(whole[: whole.index(plain[0])]), (end,) if parted else (), end)

    def before(self, prompt: Sequence[int]) -> list[int]:
        """All tokens that stand before the text."""
        return [*self.begin, *prompt, *self.middle]


@dataclass(frozen=True)
class Sequences(Dataset[dict[str, Any]]):
    """Examples of one split: T inputs and, for each, the token that follows it, or `IGNORED` within the prompt.

    Attributes:
        prompts: Tokens of N prompts.
        texts: Tokens of the N texts.
        layout: Tokens around them.
        max_length: Most inputs of an example; the text is cut to it.
    """

    prompts: Tokens
    texts: Tokens
    layout: Layout
    max_length: int

    def __len__(self) -> int:
        return len(self.prompts.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of inputs of each example (N,); the end token is none of them."""
        around = len(self.layout.begin) + len(self.layout.middle)
        return np.minimum(self.prompts.lengths + self.texts.lengths + around, self.max_length)

    def __getitem__(self, index: int) -> dict[str, Any]:
        before = self.layout.before(_row(self.prompts, index))
        tokens = np.asarray([*before, *_row(self.texts, index), self.layout.end], dtype=np.int64)[
            : self.max_length + 1
        ]
        labels = tokens[1:].copy()
        labels[: len(before) - 1] = IGNORED
        return {"input_ids": tokens[:-1], "labels": labels, "index": index}


def _row(tokens: Tokens, index: int) -> list[int]:
    found: list[int] = tokens.input_ids[tokens.offsets[index] : tokens.offsets[index + 1]].tolist()
    return found


@dataclass(frozen=True)
class Padded:
    """Collates examples into a batch, one a row, padded on the right to the longest.

    Attributes:
        token: Id that fills ``input_ids``.
    """

    token: int

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """Return inputs `input_ids` and `attention_mask` (B, T), and labels (B, T)."""
        lengths = [len(row["input_ids"]) for row in rows]
        ones = [np.ones(length, dtype=np.int64) for length in lengths]
        return make_batch(
            {
                "input_ids": _filled([row["input_ids"] for row in rows], self.token),
                "attention_mask": _filled(ones, 0),
            },
            index=torch.tensor([row["index"] for row in rows]),
            labels=_filled([row["labels"] for row in rows], IGNORED),
            num_tokens=sum(lengths),
        )


@dataclass(frozen=True)
class Packed:
    """Collates the same batch into fewer rows: examples stand one behind the other and do not see each other.

    There is no ``attention_mask``: ``position_ids``, which begin at 0 again with every example, tell transformers where
    attention ends. The loss is that of `Padded`, for it is a mean over tokens.

    Attributes:
        token: Id that fills ``input_ids``.
        width: Most tokens of a row.
    """

    token: int
    width: int

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """Return inputs `input_ids` and `position_ids` (R, T), and labels (R, T), with R <= B."""
        lengths = [len(row["input_ids"]) for row in rows]
        packs = pack(lengths, self.width)
        longest = max(sum(lengths[i] for i in members) for members in packs)

        def joined(key: str, fill: int) -> Tensor:
            return _filled(
                [np.concatenate([rows[i][key] for i in members]) for members in packs], fill
            )

        positions = [np.concatenate([np.arange(lengths[i]) for i in members]) for members in packs]
        positions = [
            np.concatenate([row, np.arange(longest - len(row))]) for row in positions
        ]  # padding is one more
        return make_batch(
            {
                "input_ids": joined("input_ids", self.token),
                "position_ids": torch.from_numpy(np.stack(positions)),
            },
            index=torch.tensor([row["index"] for row in rows]),
            labels=joined("labels", IGNORED),
            num_tokens=sum(lengths),
        )


def pack(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Put items into bins of this width, first-fit decreasing; one that is wider has a bin of its own."""
    bins: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((number for number, left in enumerate(room) if left >= lengths[item]), None)
        if place is None:
            bins.append([item])
            room.append(width - lengths[item])
        else:
            bins[place].append(item)
            room[place] -= lengths[item]
    return bins


def _filled(rows: Sequence[NDArray[np.int64]], fill: int) -> Tensor:
    width = max(len(row) for row in rows)
    filled = np.full((len(rows), width), fill, dtype=np.int64)
    for target, row in zip(filled, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(filled)
