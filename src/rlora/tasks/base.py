"""The task protocol: data, head, loss, decoding and scores, independent of model and trainer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from rlora.data.batch import Batch

# What no setting changes; the rest has transformers' defaults, which alter no text.
FIXED_DECODING = {"do_sample": False, "early_stopping": False}


@dataclass(frozen=True)
class GenerationConfig:
    """Settings of text generation: beam search, which with one beam is greedy.

    They and `FIXED_DECODING` are all that is in force. The options in a checkpoint's
    generation_config.json have no effect.

    Attributes:
        batch_size: Prompts per batch.
        beams: Hypotheses per prompt.
        length_penalty: p, where a hypothesis of log probability s and t tokens ranks by s / t^p.
        no_repeat_ngram_size: No n-gram of this length occurs twice in a text; 0 allows all.
        max_new_tokens: Maximum number of generated tokens.
        end_token: Id of the token that ends a text; None: the one that ends the training texts.

    Raises:
        ValueError: A setting is out of range.
    """

    batch_size: int = 16
    beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    max_new_tokens: int = 64
    end_token: int | None = None

    def in_force(self) -> dict[str, Any]:
        """Return the settings and `FIXED_DECODING`."""
        return {**asdict(self), **FIXED_DECODING}

    def __post_init__(self) -> None:
        for key in ("batch_size", "beams", "max_new_tokens"):
            if (value := getattr(self, key)) < 1:
                raise ValueError(f"task.decoding.{key}={value} is invalid: expected at least 1.")
        if self.no_repeat_ngram_size < 0:
            raise ValueError(
                f"task.decoding.no_repeat_ngram_size={self.no_repeat_ngram_size} is invalid: "
                "expected 0 or a positive integer."
            )


@dataclass(frozen=True)
class TextScores:
    """Scores of texts or of predicted rows.

    Attributes:
        values: Scores by name, such as `test/BLEU`.
        missing: For each score that could not be computed, its name and the reason.
    """

    values: dict[str, float]
    missing: dict[str, str] = field(default_factory=dict)


def has_value(row: Mapping[str, Any], column: str) -> bool:
    """Return whether a row has a value in a column: neither none nor blanks alone."""
    value = row.get(column)
    return value is not None and not (isinstance(value, str) and not value.strip())


class Task(ABC):
    """One problem to learn.

    Attributes:
        name: Task name; equals the stem of its YAML file.
        monitor: Metric that selects checkpoints, without its stage.
        mode: `max` or `min`: the direction in which `monitor` improves.
        reported: Metric of the test split that reports show, or None for `monitor`.
        trained_modules: Last path components of the backbone modules that train in full (the head).
        has_bounded_loss: Whether the task has a `bounded_loss` and a 0-1 error.
        fields: Names of the inputs of one row to predict.
    """

    name: str
    monitor: str
    mode: str
    reported: str | None = None
    trained_modules: tuple[str, ...]
    has_bounded_loss: bool = False
    fields: tuple[str, ...] = ("text",)

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Names of the columns of a row to predict that the task reads."""
        return self.fields

    @abstractmethod
    def head(self) -> dict[str, Any]:
        """Return the arguments with which the backbone builds its head.

        They are `kind`, `num_labels` and `labels`; see `rlora.models.pretrained.BackboneOptions`.
        """

    @abstractmethod
    def setup(self, processor: Any, *, seed: int, cache_dir: Path) -> None:
        """Read, split and preprocess the data; a second call with the same arguments does nothing.

        Args:
            processor: The backbone's processor; for text, a Hugging Face tokenizer.
            seed: Seed of the run. It orders the training batches and changes no split.
            cache_dir: Folder that keeps preprocessed data between runs.
        """

    @abstractmethod
    def input_files(self) -> list[Path]:
        """Return the files, or folders of files, that `setup` reads on this machine.

        A multirun repeats a finished run after one of them has changed. Data from the hub has a
        pinned revision and needs none.

        Raises:
            ValueError: The data is missing.
        """

    @property
    @abstractmethod
    def num_train_examples(self) -> int:
        """Number of training examples; available after `setup`."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the inputs and labels of all splits in use; available after `setup`."""

    @abstractmethod
    def train_loader(self, *, rank: int = 0, world_size: int = 1) -> DataLoader[Any]:
        """Return the loader of the training batches; its `batch_sampler` has `set_epoch(epoch)`."""

    @abstractmethod
    def validation_loaders(
        self, *, rank: int = 0, world_size: int = 1
    ) -> dict[str, DataLoader[Any]]:
        """Return the loaders of the splits that select checkpoints, by name."""

    @abstractmethod
    def test_loaders(self, *, rank: int = 0, world_size: int = 1) -> dict[str, DataLoader[Any]]:
        """Return the loaders of the splits that give the reported scores, by name."""

    def predict_loaders(self, *, rank: int = 0, world_size: int = 1) -> dict[str, DataLoader[Any]]:
        """Return the loaders of the unlabeled official test splits, by name; by default none."""
        return {}

    def certification_loader(
        self, rows: NDArray[np.int64], batch_size: int | None
    ) -> DataLoader[Any]:
        """Return a loader that gives each of these training rows once.

        Args:
            rows: Rows of the training split (M,).
            batch_size: Rows per batch; None: the task chooses.
        """
        raise NotImplementedError(f"{self.name} does not support certificates")

    def train_groups(self) -> list[NDArray[np.int64]]:
        """Return the group ids of each training row.

        Rows whose inputs are equal, or contain one another, share a group.
        """
        raise NotImplementedError(f"{self.name} does not support certificates")

    def train_rows_in_validation(self) -> int:
        """Return the number of training rows whose inputs all equal those of a validation row."""
        raise NotImplementedError(f"{self.name} does not support certificates")

    def row_inputs(self, row: Mapping[str, Any], location: str) -> tuple[str, ...]:
        """Return the inputs of a row to predict, by default the values of `fields`.

        Args:
            row: Values by column.
            location: File and line, for messages.

        Raises:
            ValueError: An input is missing or malformed.
        """
        for name in self.fields:
            if not isinstance(row.get(name), str):
                columns = f"it has {', '.join(row)}"
                found = f"its {name} is {row[name]!r}" if name in row else columns
                raise ValueError(f"{location} has no text under {name}: {found}")
        return tuple(row[name] for name in self.fields)

    def row_target(self, row: Mapping[str, Any], location: str) -> Any:
        """Return the label or the reference text of a row to predict, or None where it has none.

        Raises:
            ValueError: It is malformed.
        """
        return None

    def score_rows(
        self, inputs: Sequence[tuple[str, ...]], targets: Sequence[Any], predictions: Sequence[Any]
    ) -> TextScores:
        """Return the scores of predicted rows, by the name of the metric.

        Args:
            inputs: Return values of `row_inputs`.
            targets: Return values of `row_target`, none of them None.
            predictions: Predicted label names or scores; for a `GenerationTask`, generated texts.
        """
        raise NotImplementedError(f"{self.name} does not score predicted rows")

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean loss over the targets of a batch, a float32 scalar.

        The targets are the examples, unless the batch has another `num_targets`.
        """

    def bounded_loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return a mean loss in [0, 1] of a batch, a differentiable float32 scalar.

        It exists where `has_bounded_loss` is true.
        """
        raise NotImplementedError(f"{self.name} has no loss in [0, 1]")

    @abstractmethod
    def decode(self, outputs: Any) -> Tensor:
        """Return one prediction per example (B,): class ids (int64) or scores (float32)."""

    @abstractmethod
    def new_metrics(self) -> MetricCollection:
        """Return a new collection of the task's metrics, without a prefix."""

    @abstractmethod
    def write_predictions(
        self, directory: Path, loader_name: str, predictions: Sequence[float | int]
    ) -> Path:
        """Write the predictions of a split, in its order, and return the file."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return JSON facts for the run record: sizes, split convention, source, metric names."""


class GenerationTask(Task):
    """A task whose test scores come from texts that the model generates after prompts.

    Attributes:
        processor: The backbone's processor. `setup` sets it; without data, assign it directly.
    """

    processor: Any = None

    @property
    @abstractmethod
    def generation(self) -> GenerationConfig:
        """Settings of the generation, with the end token; available once `processor` is set."""

    @abstractmethod
    def prompts(self) -> dict[str, list[list[int]]]:
        """Return the token ids of the prompts of the test files, by split; after `setup`."""

    @abstractmethod
    def encode_prompt(self, source: str, location: str) -> list[int]:
        """Return the token ids of the prompt of an input that is in no file.

        Args:
            source: The input, written as in the files.
            location: Where it comes from, for messages.

        Raises:
            ValueError: The input is malformed, or leaves no room for a text.
        """

    @abstractmethod
    def decode_text(self, ids: Sequence[int]) -> str:
        """Return the text of generated token ids, up to the end token."""

    @abstractmethod
    def score(self, texts: Mapping[str, Sequence[str]]) -> TextScores:
        """Score one text per prompt of every split."""

    @abstractmethod
    def write(self, texts: Mapping[str, Sequence[str]], directory: Path) -> list[Path]:
        """Write the texts and their references in the official formats; return the files."""
