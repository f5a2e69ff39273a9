"""Prompts and their texts as token sequences, with the loss on the texts alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rlora.data.batch import Batch, make_batch
from rlora.data.collate import fill_right
from rlora.data.tokenize import Tokens, special_token

IGNORED = -100  # label of a position without a loss


def end_token(tokenizer: Any) -> int:
    """Return the id of the token that ends a text.

    Raises:
        ValueError: The tokenizer has none.
    """
    return special_token(tokenizer, "that ends a text", "eos_token", "sep_token")


@dataclass(frozen=True)
class SequenceFormat:
    """The special tokens of a sequence: prefix, prompt, separator, text, end.

    Attributes:
        prefix: Tokens that the tokenizer puts before every text: LLaMA's <s>, nothing for GPT-2.
        separator: Tokens between prompt and text.
        end: Token that ends the text and its generation.
    """

    prefix: tuple[int, ...]
    separator: tuple[int, ...]
    end: int

    @classmethod
    def of(cls, tokenizer: Any, *, end_after_prompt: bool) -> "SequenceFormat":
        """Return the format of a tokenizer.

        Args:
            tokenizer: A Hugging Face tokenizer.
            end_after_prompt: Whether the end token is the separator too, as in the scripts of LoRA.

        Raises:
            ValueError: The tokenizer has no token that ends a text.
        """
        end = end_token(tokenizer)
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        complete = tokenizer("a")["input_ids"]
        prefix = tuple(complete[: complete.index(bare[0])])
        return cls(prefix, (end,) if end_after_prompt else (), end)

    def before_text(self, prompt: Sequence[int]) -> list[int]:
        """Return all tokens that precede the text."""
        return [*self.prefix, *prompt, *self.separator]


@dataclass(frozen=True)
class Sequences(Dataset[dict[str, Any]]):
    """Examples of one split: T inputs, each with the next token, or `IGNORED` within the prompt.

    Attributes:
        prompts: Tokens of N prompts.
        texts: Tokens of the N texts.
        format: Special tokens around them.
        max_length: Maximum number of inputs of an example; a longer text is truncated.
    """

    prompts: Tokens
    texts: Tokens
    format: SequenceFormat
    max_length: int

    def __len__(self) -> int:
        return len(self.prompts.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of inputs of each example (N,); the end token is a label only."""
        special = len(self.format.prefix) + len(self.format.separator)
        return np.minimum(self.prompts.lengths + self.texts.lengths + special, self.max_length)

    def __getitem__(self, index: int) -> dict[str, Any]:
        before = self.format.before_text(_row(self.prompts, index))
        sequence = [*before, *_row(self.texts, index), self.format.end]
        tokens = np.asarray(sequence, dtype=np.int64)[: self.max_length + 1]
        labels = tokens[1:].copy()
        # The last token before the text predicts the first one of the text, so its label stays.
        labels[: len(before) - 1] = IGNORED
        return {"input_ids": tokens[:-1], "labels": labels, "index": index}


def _row(tokens: Tokens, index: int) -> list[int]:
    row: list[int] = tokens.input_ids[tokens.offsets[index] : tokens.offsets[index + 1]].tolist()
    return row


@dataclass(frozen=True)
class SequenceCollator:
    """Collates examples into a batch with one example per row, padded on the right to the longest.

    Attributes:
        token: Id that fills `input_ids`.
    """

    token: int

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """Return inputs `input_ids` and `attention_mask` (B, T), and labels (B, T)."""
        lengths = [len(row["input_ids"]) for row in rows]
        ones = [np.ones(length, dtype=np.int64) for length in lengths]
        return make_batch(
            {
                "input_ids": fill_right([row["input_ids"] for row in rows], self.token),
                "attention_mask": fill_right(ones, 0),
            },
            index=torch.tensor([row["index"] for row in rows]),
            labels=fill_right([row["labels"] for row in rows], IGNORED),
            num_tokens=sum(lengths),
            num_targets=_count_targets(rows),
        )


@dataclass(frozen=True)
class PackingCollator:
    """Collates examples into fewer rows, each a concatenation of examples.

    The examples of a row do not attend to one another. A packed batch has no `attention_mask`. Its
    `position_ids` restart at 0 with every example, from which transformers derives the limits of
    attention. The loss equals that of `SequenceCollator`, because both are means over the same
    tokens.

    Attributes:
        token: Id that fills `input_ids`.
        width: Maximum number of tokens of a row.
    """

    token: int
    width: int

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """Return inputs `input_ids` and `position_ids` (R, T), and labels (R, T), with R <= B."""
        lengths = [len(row["input_ids"]) for row in rows]
        bins = pack(lengths, self.width)
        longest = max(sum(lengths[i] for i in members) for members in bins)

        def concatenate(key: str, fill: int) -> Tensor:
            return fill_right(
                [np.concatenate([rows[i][key] for i in members]) for members in bins], fill
            )

        positions = []
        for members in bins:
            examples = [np.arange(lengths[i]) for i in members]
            # The padding counts from 0 as an example does, so that no example attends to it.
            padding = np.arange(longest - sum(lengths[i] for i in members))
            positions.append(np.concatenate([*examples, padding]))
        return make_batch(
            {
                "input_ids": concatenate("input_ids", self.token),
                "position_ids": torch.from_numpy(np.stack(positions)),
            },
            index=torch.tensor([row["index"] for row in rows]),
            labels=concatenate("labels", IGNORED),
            num_tokens=sum(lengths),
            num_targets=_count_targets(rows),
        )


def pack(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Put items into bins of this width by first-fit decreasing; a wider item gets its own bin.

    Args:
        lengths: Length of each item.
        width: Capacity of a bin.

    Returns:
        The items of each bin.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        target = next((number for number, free in enumerate(room) if free >= lengths[item]), None)
        if target is None:
            bins.append([item])
            room.append(width - lengths[item])
        else:
            bins[target].append(item)
            room[target] -= lengths[item]
    return bins


def _count_targets(rows: Sequence[dict[str, Any]]) -> int:
    """Return the number of tokens with a loss."""
    return sum(int((row["labels"] != IGNORED).sum()) for row in rows)
