"""Classification or regression of a text or a pair of texts: everything but reading the data."""

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from rlora.data.batch import Batch
from rlora.data.collate import EncodedSplit, PaddingCollator
from rlora.data.examples import Examples
from rlora.data.split_plan import SplitPlan, SplitResult
from rlora.data.splits import normalize
from rlora.data.tokenize import cached_tokens
from rlora.data.tsv import ParseLabel, class_label, located_label, score_label
from rlora.tasks.base import TextScores, has_value
from rlora.tasks.submissions import format_prediction, write_table
from rlora.tasks.supervised import SupervisedTask
from rlora.tasks.text_task import TextTask


@dataclass(kw_only=True, eq=False)
class TextClassification(SupervisedTask, TextTask):
    """Sequence classification, or regression where `labels` is None.

    By default the official development set is the test set. Checkpoints are selected on a part of
    train that shares no text with the remaining training rows.

    Attributes:
        validation: `train` (a part of train) or `dev` (the official development set, then also the
            test set).
        shots: Rows per class of train and of validation in the few-shot protocol, or None.
        part: `prior` or `rest`: train on that part only, which shares nothing with the other; None:
            train on all rows.
        prior_fraction: Share of the rows in the part `prior`.
        contained: Whether rows may contain one another, as phrases of one sentence do.

    Raises:
        ValueError: A setting is out of range or has no meaning for this task.
    """

    validation: str = "train"
    shots: int | None = None
    part: str | None = None
    prior_fraction: float = 0.5
    contained: bool = False
    trained_modules: tuple[str, ...] = ("classifier", "score")
    _unlabeled: dict[str, EncodedSplit] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        SupervisedTask.__post_init__(self)
        TextTask.__post_init__(self)
        if self.shots is not None and self.labels is None:
            raise ValueError(
                f"task.shots={self.shots} samples rows per class, but {self.name} is a regression "
                "task without classes; set task.shots=null."
            )

    # Hooks of a task family.

    @abstractmethod
    def read(self) -> dict[str, Examples]:
        """Return `train`, `test`, maybe `validation`, and further splits named `test...`."""

    def read_unlabeled(self) -> dict[str, Examples]:
        """Return the unlabeled splits by loader name."""
        return {}

    def group_fields(self) -> Sequence[int] | None:
        """Return the positions of the text fields that group rows in a split; None: all fields."""
        return None

    def file_name(self, loader_name: str) -> str:
        """Return the name of a loader's prediction file."""
        return f"{loader_name}.tsv"

    # The protocol.

    def predict_loaders(self, *, rank: int = 0, world_size: int = 1) -> dict[str, DataLoader[Any]]:
        """Return the loaders of the unlabeled official test sets, which the first call reads."""
        return self.eval_loaders(self._unlabeled_splits(), rank, world_size)

    def certification_loader(
        self, rows: NDArray[np.int64], batch_size: int | None
    ) -> DataLoader[Any]:
        """Return these training rows in batches of similar length."""
        split, size = self.prepared.splits["train"], batch_size or self.eval_batch_size
        order = rows[np.argsort(split.lengths[rows], kind="stable")]
        batches = [order[start : start + size].tolist() for start in range(0, len(order), size)]
        return self.loader(split, batches)

    def train_groups(self) -> list[NDArray[np.int64]]:
        """Return the group ids of each training row."""
        return self.split_plan().groups(self.prepared.examples["train"])

    def train_rows_in_validation(self) -> int:
        """Return the number of training rows with the texts of a validation row.

        Two texts are the same if they differ only in case and white space.
        """
        examples = self.prepared.examples
        validation = {tuple(map(normalize, texts)) for texts in examples["validation"].texts}
        return sum(tuple(map(normalize, texts)) in validation for texts in examples["train"].texts)

    def write_predictions(
        self, directory: Path, loader_name: str, predictions: Sequence[float | int]
    ) -> Path:
        """Write `index` and `prediction` (a label name, or a score clipped to its range) per row.

        Raises:
            ValueError: There is no such loader, the number of predictions is wrong, or a prediction
                has no label.
        """
        splits = {**self.prepared.splits, **self._unlabeled_splits()}
        if loader_name not in splits:
            raise ValueError(
                f"{self.name} has no split {loader_name!r}; use one of {sorted(splits)}."
            )
        if len(predictions) != len(splits[loader_name]):
            raise ValueError(
                f"{len(predictions)} predictions for the {len(splits[loader_name])} rows of "
                f"{self.name} {loader_name}; pass one per row, in the order of batch['index']."
            )
        limits = (self.score_range[0], self.score_range[1]) if self.score_range else None
        lines = [format_prediction(value, self.labels, limits) for value in predictions]
        return write_table(Path(directory) / self.file_name(loader_name), lines)

    def describe(self) -> dict[str, Any]:
        """Return split sizes, validation convention, few-shot sample, source and metrics."""
        return {
            "name": self.name,
            "rows": {name: len(split) for name, split in self.prepared.splits.items()},
            "validation": "dev" if self.validation == "dev" else "train-split",
            "split_seed": self.split_seed,
            "shots": self.shots,
            "train_examples": self.train_examples,
            "sample_seed": None if self.shots is self.train_examples is None else self.sample_seed,
            "part": self.part,
            "parts": self.prepared.parts,
            "max_length": self.max_length,
            "labels": None if self.labels is None else list(self.labels),
            "label_counts": self._label_counts(),
            "metrics": list(self.metrics),
            **self.source(),
        }

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Names of the columns of texts and labels."""
        return (*self.fields, self.label_column)

    @property
    def label_column(self) -> str:
        """Name of the column of the labels in a file to predict."""
        return "label"

    def parse_label(self) -> ParseLabel:
        """Return the function from a label's text to its id, or to a score in `score_range`."""
        if self.labels is not None:
            return class_label(self.labels)
        low, high = self.score_range or (-math.inf, math.inf)
        return score_label(low, high)

    def row_target(self, row: Mapping[str, Any], location: str) -> float | int | None:
        """Return the class id or the score of a row to predict, or None where it has none."""
        if not has_value(row, self.label_column):
            return None
        value = row[self.label_column]
        text = value if isinstance(value, str) else json.dumps(value)
        return located_label(text, self.parse_label(), location)

    def score_rows(
        self,
        inputs: Sequence[tuple[str, ...]],
        targets: Sequence[float | int],
        predictions: Sequence[Any],
    ) -> TextScores:
        """Return the task's metrics."""
        if self.labels is not None:
            predictions = [*map(class_label(self.labels), predictions)]
        metrics = self.new_metrics()
        metrics.update(torch.tensor(predictions), torch.tensor(targets))
        return TextScores({name: float(value) for name, value in metrics.compute().items()})

    def _label_counts(self) -> dict[str, dict[str, int]]:
        """Return the rows per label of each evaluated split, in id order; empty for regression.

        Reports compute the score of the majority class from them.
        """
        counts = {}
        for name, split in self.prepared.splits.items():
            if self.labels is not None and split.labels is not None and name != "train":
                ids = split.labels.astype(np.int64)
                rows = np.bincount(ids, minlength=len(self.labels)).tolist()
                counts[name] = dict(zip(self.labels, rows, strict=True))
        return counts

    # Hooks of `TextTask`.

    def split_plan(self) -> SplitPlan:
        """Return the rules that split the training rows."""
        return SplitPlan(
            validation=self.validation,
            fraction=self.validation_fraction,
            max_rows=self.validation_max,
            seed=self.split_seed,
            shots=self.shots,
            train_examples=self.train_examples,
            sample_seed=self.sample_seed,
            part=self.part,
            prior_fraction=self.prior_fraction,
            fields=self.group_fields(),
            contained=self.contained,
        )

    def read_splits(self, processor: Any) -> SplitResult:
        """Return the splits, and forget the unlabeled ones of an earlier `setup`."""
        self._unlabeled = None
        return self.split_plan().apply(self.read())

    def encode(
        self, examples: Examples, processor: Any, *, identity: str, cache_dir: Path
    ) -> EncodedSplit:
        """Tokenize a split and check its labels."""
        labels = examples.label_array(None if self.labels is None else len(self.labels))
        tokens = cached_tokens(
            examples,
            processor,
            identity=identity,
            max_length=self.max_length,
            label=self.name,
            cache_dir=cache_dir,
        )
        return EncodedSplit(tokens, labels)

    def collator(
        self, processor: Any, *, training: bool
    ) -> Callable[[list[dict[str, Any]]], Batch]:
        """Return the collator, which pads."""
        return PaddingCollator.of(processor)

    def _unlabeled_splits(self) -> dict[str, EncodedSplit]:
        if self._unlabeled is None:
            prepared = self.prepared
            self._unlabeled = self.encode_splits(
                self.read_unlabeled(), prepared.processor, prepared.key
            )
        return self._unlabeled
