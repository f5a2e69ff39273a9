"""Which rows train, which make choices, and which are kept for a prior: the rules, and their application."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlora.data.disjoint_parts import PRIOR, REST, deal, owners
from rlora.data.examples import Examples
from rlora.data.splits import few_shot, group_rows, grouped_split, sample

VALIDATION = "validation"


@dataclass(frozen=True)
class Divided:
    """The outcome.

    Attributes:
        splits: Examples by split, ``train`` and ``validation`` among them.
        parts: SHA-256 (hex) of the examples of every part of the training set; empty where it is whole.
    """

    splits: dict[str, Examples]
    parts: dict[str, str]


@dataclass(frozen=True)
class Division:
    """How the training rows are divided.

    Attributes:
        validation: ``train`` (a part of train) or ``dev`` (the official development set, then the test set too).
        fraction: Share of train that becomes validation.
        most: Most rows of it.
        seed: Seed of the splits.
        shots: Rows per class of train and of validation in the few-shot protocol, or None.
        train_examples: Train on so many rows of what would be train, or None; a larger sample holds the smaller ones.
        sample_seed: Seed of either sample.
        part: ``prior`` or ``rest``: train on that part only, which shares nothing with the other; None: on all.
        prior_fraction: Share of the rows that is the prior's.
        fields: Positions of the texts that bind rows together, or None for all.
        contained: Whether rows may contain one another, which parts then must not do.

    Raises:
        ValueError: A setting is out of range, or two exclude each other.
    """

    validation: str
    fraction: float
    most: int
    seed: int
    shots: int | None
    train_examples: int | None
    sample_seed: int
    part: str | None
    prior_fraction: float
    fields: Sequence[int] | None
    contained: bool

    def __post_init__(self) -> None:
        if self.validation not in ("train", "dev"):
            raise ValueError(
                f"task.validation={self.validation} is unknown; set task.validation to train or dev."
            )
        if not 0 < self.fraction < 1:
            raise ValueError(f"task.validation_fraction={self.fraction} must lie between 0 and 1.")
        if self.shots is not None and self.shots < 1:
            raise ValueError(
                f"task.shots={self.shots} must be at least 1, or null for the whole training set."
            )
        if self.train_examples is not None and self.train_examples < 1:
            raise ValueError(
                f"task.train_examples={self.train_examples} must be at least 1, or null for all."
            )
        if self.part not in (None, PRIOR, REST):
            raise ValueError(
                f"task.part={self.part} is unknown; set task.part to {PRIOR}, {REST} or null."
            )
        if not 0 < self.prior_fraction < 1:
            raise ValueError(
                f"task.prior_fraction={self.prior_fraction} must lie strictly between 0 and 1."
            )
        chosen = {"part": self.part, "shots": self.shots, "train_examples": self.train_examples}
        both = [f"task.{name}={value}" for name, value in chosen.items() if value is not None]
        if len(both) > 1:
            raise ValueError(
                f"{' and '.join(both)} each choose training rows in a way of their own; set but one of them."
            )

    def of(self, read: dict[str, Examples]) -> Divided:
        """Divide what was read: ``train``, ``test``, maybe ``validation`` and others."""
        train, splits, parts = read["train"], dict(read), {}
        own_validation = self.validation == "train" and "validation" not in read
        size = max(1, min(round(self.fraction * len(train)), self.most))
        if self.shots is not None:
            splits["train"], splits[VALIDATION] = few_shot(train, self.shots, self.sample_seed)
        elif self.part is not None:
            kept = size / len(train) if own_validation else 0.0
            shares = {
                PRIOR: (1 - kept) * self.prior_fraction,
                REST: (1 - kept) * (1 - self.prior_fraction),
            }
            shares |= {VALIDATION: kept} if own_validation else {}
            found = {
                name: train.take(rows)
                for name, rows in deal(self.groups(train), shares, self.seed).items()
            }
            parts = {name: rows.digest for name, rows in found.items()}
            splits["train"] = found[self.part]
            splits |= {VALIDATION: found[VALIDATION]} if own_validation else {}
        elif own_validation:
            rest, chosen = grouped_split(
                group_rows(train.texts, self._fields(train)), size, self.seed
            )
            splits["train"], splits[VALIDATION] = train.take(rest), train.take(chosen)
        if self.validation == "dev":
            splits[VALIDATION] = read["test"]
        if self.train_examples is not None:
            splits["train"] = splits["train"].take(
                sample(len(splits["train"]), self.train_examples, self.sample_seed)
            )
        return Divided(splits, parts)

    def groups(self, examples: Examples) -> list[NDArray[np.int64]]:
        """Groups of each row, see `rlora.data.disjoint_parts.owners`."""
        return owners(examples.texts, self._fields(examples), contained=self.contained)

    def _fields(self, examples: Examples) -> list[int]:
        return list(range(len(examples.texts[0])) if self.fields is None else self.fields)
