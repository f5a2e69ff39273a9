"""The task protocol: data, head, loss, decoding and scores of one problem, independent of any model or trainer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from rlora.data.batch import Batch


@dataclass(frozen=True)
class Decoding:
    """How texts are generated: beam search, or greedily with one beam.

    Attributes:
        batch_size: Prompts at once.
        beams: Hypotheses kept of each.
        length_penalty: A hypothesis of log probability s and t tokens is ranked by s / t^length_penalty.
        no_repeat_ngram_size: No n-gram of this length occurs twice in a text; 0: any may.
        max_new_tokens: Most tokens of a text.

    Raises:
        ValueError: a setting is out of range.
    """

    batch_size: int = 16
    beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        for key in ("batch_size", "beams", "max_new_tokens"):
            if getattr(self, key) < 1:
                raise ValueError(f"task.decoding.{key}={getattr(self, key)} must be at least 1.")
        if self.no_repeat_ngram_size < 0:
            raise ValueError(
                f"task.decoding.no_repeat_ngram_size={self.no_repeat_ngram_size} must not be negative."
            )


@dataclass(frozen=True)
class TextScores:
    """What generated texts score.

    Attributes:
        values: Scores by name.
        missing: Why others could not be computed, by name.
    """

    values: dict[str, float]
    missing: dict[str, str] = field(default_factory=dict)


class Task(ABC):
    """One problem to learn.

    Attributes:
        name: The task's name; equals the stem of its YAML file.
        monitor: The metric, without its stage, by which checkpoints are chosen.
        mode: ``"max"`` or ``"min"``: the direction in which ``monitor`` improves.
        reported: The metric of the test split that stands for the run in a report, or None for ``monitor``.
        trained_modules: Last path components of the backbone's submodules that are trained in full (the head).
        has_bounded_loss: Whether there is a ``bounded_loss``, and errors to count.
        fields: Names of what a row to predict consists of.
    """

    name: str
    monitor: str
    mode: str
    reported: str | None = None
    trained_modules: tuple[str, ...]
    has_bounded_loss: bool = False
    fields: tuple[str, ...] = ("text",)

    @abstractmethod
    def head(self) -> dict[str, Any]:
        """Return what the backbone needs to build its head: ``kind`` and ``num_labels``."""

    @abstractmethod
    def setup(self, processor: Any, *, seed: int, cache_dir: Path) -> None:
        """Read, split and preprocess the data; a second call with the same arguments does nothing.

        Args:
            processor: The backbone's processor, for text a Hugging Face tokenizer.
            seed: The run's seed, which orders the training batches and changes no split.
            cache_dir: Folder in which the preprocessed data is kept between runs.
        """

    @property
    @abstractmethod
    def num_train_examples(self) -> int:
        """Number of training examples, known after ``setup``."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the inputs and labels of all splits in use, known after ``setup``."""

    @abstractmethod
    def train_loader(self, *, rank: int = 0, world_size: int = 1) -> DataLoader[Any]:
        """Return the loader of the training batches; its ``batch_sampler`` has ``set_epoch(epoch)``."""

    @abstractmethod
    def validation_loaders(
        self, *, rank: int = 0, world_size: int = 1
    ) -> dict[str, DataLoader[Any]]:
        """Return the loaders on which choices are made, by name."""

    @abstractmethod
    def test_loaders(self, *, rank: int = 0, world_size: int = 1) -> dict[str, DataLoader[Any]]:
        """Return the loaders on which the result is reported, by name."""

    def predict_loaders(self, *, rank: int = 0, world_size: int = 1) -> dict[str, DataLoader[Any]]:
        """Return the loaders of unlabeled official test splits, by name; empty where the task has none."""
        return {}

    def certification_loader(
        self, rows: NDArray[np.int64], batch_size: int | None
    ) -> DataLoader[Any]:
        """Return the loader of these training rows, each once, in batches of this size or, for None, any."""
        raise NotImplementedError(f"{self.name} cannot be certified")

    def train_groups(self) -> list[NDArray[np.int64]]:
        """Return the groups of each training row: rows that share or contain one another's inputs share a group."""
        raise NotImplementedError(f"{self.name} cannot be certified")

    def train_rows_in_validation(self) -> int:
        """Return how many training rows have all their inputs in common with a validation row."""
        raise NotImplementedError(f"{self.name} cannot be certified")

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a float32 scalar."""

    def bounded_loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return a mean loss in [0, 1] of a batch, a differentiable float32 scalar, where ``has_bounded_loss``."""
        raise NotImplementedError(f"{self.name} has no loss in [0, 1]")

    @abstractmethod
    def decode(self, outputs: Any) -> Tensor:
        """Return one prediction per example (B,): class ids int64, or scores float32."""

    @abstractmethod
    def new_metrics(self) -> MetricCollection:
        """Return a fresh collection of the task's metrics, without a prefix."""

    @abstractmethod
    def write_predictions(
        self, directory: Path, loader_name: str, predictions: Sequence[float | int]
    ) -> Path:
        """Write a split's predictions, in the split's order, and return the file."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return plain JSON facts for the run record: sizes, split convention, source, metric names."""


class Pen(ABC):
    """How texts are written."""

    @property
    @abstractmethod
    def settings(self) -> Decoding:
        """How they are generated."""

    @property
    @abstractmethod
    def end_token(self) -> int:
        """The token that ends a text."""

    @abstractmethod
    def text_of(self, tokens: Sequence[int]) -> str:
        """Return what generated tokens say, up to the end token."""


class Writer(Pen):
    """What a task is besides whose test is the texts that a model writes."""

    @abstractmethod
    def prompts(self) -> dict[str, list[list[int]]]:
        """Return the tokens after which texts are to be written, by split, known after ``setup``."""

    @abstractmethod
    def score_texts(self, texts: Mapping[str, Sequence[str]]) -> TextScores:
        """Score one text per prompt of every split; names as ``test/BLEU``."""

    @abstractmethod
    def write_texts(self, directory: Path, split: str, texts: Sequence[str]) -> list[Path]:
        """Write a split's texts, and what they are compared with, in the official formats; return the files."""
