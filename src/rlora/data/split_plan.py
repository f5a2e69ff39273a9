"""Rules that split the training rows into train, validation and disjoint parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlora.data.disjoint_parts import PRIOR, REST, assign_groups, groups_of_rows
from rlora.data.examples import Examples
from rlora.data.splits import few_shot, group_rows, grouped_split, sample

VALIDATION = "validation"


@dataclass(frozen=True)
class SplitResult:
    """The outcome of a `SplitPlan`.

    Attributes:
        splits: Examples by split, `train` and `validation` among them.
        parts: SHA-256 (hex) of each disjoint part of the training set; empty where it is whole.
    """

    splits: dict[str, Examples]
    parts: dict[str, str]


@dataclass(frozen=True)
class SplitPlan:
    """How to split the training rows.

    Attributes:
        validation: `train` (a part of train) or `dev` (the official development set, then also the
            test set).
        fraction: Share of train that becomes validation.
        max_rows: Maximum number of validation rows taken from train.
        seed: Seed of the splits.
        shots: Rows per class of train and of validation in the few-shot protocol, or None.
        train_examples: Number of rows to sample from what would be train, or None. A larger sample
            contains the smaller ones.
        sample_seed: Seed of the few-shot sample and of the sample of training rows.
        part: `prior` or `rest`: train on that part only, which shares nothing with the other; None:
            train on all rows.
        prior_fraction: Share of the rows in the part `prior`.
        fields: Positions of the text fields that group rows; None: all of them.
        contained: Whether rows may contain one another; parts then share no contained row either.

    Raises:
        ValueError: A setting is out of range, or two settings exclude each other.
    """

    validation: str
    fraction: float
    max_rows: int
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
                f"task.validation={self.validation} is unknown; "
                "set task.validation to train or dev."
            )
        if not 0 < self.fraction < 1:
            raise ValueError(
                f"task.validation_fraction={self.fraction} is invalid: expected a number strictly "
                "between 0 and 1."
            )
        if self.shots is not None and self.shots < 1:
            raise ValueError(
                f"task.shots={self.shots} is invalid: expected at least 1, or null for the whole "
                "training set."
            )
        if self.train_examples is not None and self.train_examples < 1:
            raise ValueError(
                f"task.train_examples={self.train_examples} is invalid: expected at least 1, or "
                "null for all rows."
            )
        if self.part not in (None, PRIOR, REST):
            raise ValueError(
                f"task.part={self.part} is unknown; set task.part to {PRIOR}, {REST} or null."
            )
        if not 0 < self.prior_fraction < 1:
            raise ValueError(
                f"task.prior_fraction={self.prior_fraction} is invalid: expected a number strictly "
                "between 0 and 1."
            )
        choices = {"part": self.part, "shots": self.shots, "train_examples": self.train_examples}
        chosen = [f"task.{name}={value}" for name, value in choices.items() if value is not None]
        if len(chosen) > 1:
            raise ValueError(
                f"{' and '.join(chosen)} each choose the training rows; set only one of them."
            )

    def apply(self, read: dict[str, Examples]) -> SplitResult:
        """Split the examples as read: `train`, `test`, maybe `validation` and others."""
        splits = dict(read)
        parts: dict[str, Examples] = {}
        if self.shots is not None:
            train, validation = few_shot(read["train"], self.shots, self.sample_seed)
            splits |= {"train": train, VALIDATION: validation}
        elif self.part is not None:
            parts = self._disjoint_parts(read)
            splits["train"] = parts[self.part]
            if VALIDATION in parts:
                splits[VALIDATION] = parts[VALIDATION]
        elif self._takes_validation_from_train(read):
            splits |= self._validation_split(read["train"])
        if self.validation == "dev":
            splits[VALIDATION] = read["test"]
        if self.train_examples is not None:
            rows = sample(len(splits["train"]), self.train_examples, self.sample_seed)
            splits["train"] = splits["train"].take(rows)
        return SplitResult(splits, {name: rows.digest for name, rows in parts.items()})

    def groups(self, examples: Examples) -> list[NDArray[np.int64]]:
        """Return the group ids of each row; see `groups_of_rows`."""
        return groups_of_rows(examples.texts, self._fields(examples), contained=self.contained)

    def _takes_validation_from_train(self, read: dict[str, Examples]) -> bool:
        return self.validation == "train" and VALIDATION not in read

    def _validation_size(self, train: Examples) -> int:
        return max(1, min(round(self.fraction * len(train)), self.max_rows))

    def _validation_split(self, train: Examples) -> dict[str, Examples]:
        """Return train without its validation rows, and these rows."""
        groups = group_rows(train.texts, self._fields(train))
        rest, chosen = grouped_split(groups, self._validation_size(train), self.seed)
        return {"train": train.take(rest), VALIDATION: train.take(chosen)}

    def _disjoint_parts(self, read: dict[str, Examples]) -> dict[str, Examples]:
        """Return the parts `prior` and `rest`, and validation where it comes from train."""
        train = read["train"]
        from_train = self._takes_validation_from_train(read)
        validation = self._validation_size(train) / len(train) if from_train else 0.0
        shares = {
            PRIOR: (1 - validation) * self.prior_fraction,
            REST: (1 - validation) * (1 - self.prior_fraction),
        }
        if from_train:
            shares[VALIDATION] = validation
        assigned = assign_groups(self.groups(train), shares, self.seed)
        return {name: train.take(rows) for name, rows in assigned.items()}

    def _fields(self, examples: Examples) -> Sequence[int]:
        return range(len(examples.texts[0])) if self.fields is None else self.fields
