"""Settings, splits and loaders that all tasks on tokenized text share."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from rlora.data.batch import Batch
from rlora.data.collate import make_loader
from rlora.data.examples import Examples, fingerprint
from rlora.data.sampler import EvalBatchSampler, TrainBatchSampler
from rlora.data.split_plan import SplitPlan, SplitResult
from rlora.data.tokenize import tokenizer_identity
from rlora.tasks.base import Task


class TokenizedSplit(Protocol):
    """A tokenized split: a dataset of rows with their lengths."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each row (N,)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Prepared:
    """The outcome of `setup`.

    Attributes:
        key: Identity of the tokenizer, seed and cache folder: the arguments of `setup`.
        processor: The tokenizer.
        splits: Tokenized splits by name.
        examples: Texts and labels of the same splits.
        parts: SHA-256 (hex) of each disjoint part of the training set; empty where it is whole.
        fingerprint: SHA-256 (hex) of all splits.
    """

    key: tuple[str, int, str]
    processor: Any
    splits: dict[str, Any]
    examples: dict[str, Examples]
    parts: dict[str, str]
    fingerprint: str

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.key[1]


@dataclass(kw_only=True, eq=False)
class TextTask(Task):
    """Base of the tasks on tokenized text; `setup` calls `read_splits` and `encode`.

    Attributes:
        batch_size: Training examples per step and process.
        eval_batch_size: Examples per batch without gradients.
        max_length: Maximum number of tokens of an example.
        num_workers: Loader processes; None: see `default_workers`.
        validation_fraction: Share of train that becomes validation.
        validation_max: Maximum number of validation rows taken from train.
        split_seed: Seed of the splits; not the run's seed, so that runs share their splits.
        train_examples: Number of training rows to sample; None: all. Validation does not change.
        sample_seed: Seed of the samples of training rows.
        path: Location of the data; None: the task's own search order.
        trained_modules: Backbone modules that train in full.

    Raises:
        ValueError: A setting is out of range.
    """

    batch_size: int = 32
    eval_batch_size: int = 64
    max_length: int = 128
    num_workers: int | None = None
    validation_fraction: float = 0.05
    validation_max: int = 2000
    split_seed: int = 0
    train_examples: int | None = None
    sample_seed: int = 13
    path: str | Path | None = None
    trained_modules: tuple[str, ...] = ()
    _prepared: Prepared | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.trained_modules = tuple(self.trained_modules)
        for key in ("batch_size", "eval_batch_size", "max_length", "validation_max"):
            if (value := getattr(self, key)) < 1:
                raise ValueError(f"task.{key}={value} is invalid: expected at least 1.")
        for key in ("num_workers", "split_seed", "sample_seed"):
            if (value := getattr(self, key)) is not None and value < 0:
                raise ValueError(
                    f"task.{key}={value} is invalid: expected 0 or a positive integer."
                )
        self.split_plan()  # checks its own settings

    # Hooks of a task family.

    @abstractmethod
    def split_plan(self) -> SplitPlan:
        """Return the rules that split the training rows."""

    @abstractmethod
    def read_splits(self, processor: Any) -> SplitResult:
        """Read the data and split it by `split_plan`.

        Raises:
            ValueError: The data is missing or malformed; the message names file and line.
        """

    @abstractmethod
    def source(self) -> dict[str, str]:
        """Return where the data comes from: `source` (directory, hub or package) and `location`."""

    @abstractmethod
    def encode(
        self, examples: Examples, processor: Any, *, identity: str, cache_dir: Path
    ) -> TokenizedSplit:
        """Tokenize a split.

        Args:
            examples: The split.
            processor: A Hugging Face tokenizer.
            identity: Its `tokenizer_identity`.
            cache_dir: Folder of the token cache.
        """

    @abstractmethod
    def collator(
        self, processor: Any, *, training: bool
    ) -> Callable[[list[dict[str, Any]]], Batch]:
        """Return the function that makes a batch of rows."""

    # The protocol.

    def input_files(self) -> list[Path]:
        """Return the location of the data; a task that reads only some of its files returns those.

        Data of the hub or of a package has a version and needs no files.
        """
        source = self.source()
        return [Path(source["location"])] if source["source"] == "directory" else []

    def setup(self, processor: Any, *, seed: int, cache_dir: Path) -> None:
        """Read, split and tokenize; see `Task.setup`.

        Raises:
            ValueError: The data is missing or malformed, or a setting does not fit it.
        """
        key = (tokenizer_identity(processor), seed, str(cache_dir))
        if self._prepared is not None and self._prepared.key == key:
            return
        if processor.model_max_length < self.max_length:
            raise ValueError(
                f"task.max_length={self.max_length} is more than the "
                f"{processor.model_max_length} tokens of the model; lower task.max_length."
            )
        result = self.read_splits(processor)
        splits = self.encode_splits(result.splits, processor, key)
        self._prepared = Prepared(
            key, processor, splits, result.splits, result.parts, fingerprint(result.splits)
        )

    @property
    def prepared(self) -> Prepared:
        """The outcome of `setup`.

        Raises:
            RuntimeError: `setup` has not run.
        """
        if self._prepared is None:
            raise RuntimeError(f"Task {self.name} has no data yet; call setup() first.")
        return self._prepared

    @property
    def num_train_examples(self) -> int:
        """Number of training examples."""
        return len(self.prepared.splits["train"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the texts and labels of all splits."""
        return self.prepared.fingerprint

    def train_loader(self, *, rank: int = 0, world_size: int = 1) -> DataLoader[Any]:
        """Return shuffled batches of similar length; `batch_sampler` has `set_epoch` and `skip`."""
        split, seed = self.prepared.splits["train"], self.prepared.seed
        sampler = TrainBatchSampler(
            split.lengths, self.batch_size, seed=seed, rank=rank, world_size=world_size
        )
        return self.loader(split, sampler, training=True)

    def validation_loaders(
        self, *, rank: int = 0, world_size: int = 1
    ) -> dict[str, DataLoader[Any]]:
        """Return the loader of the validation set as `validation`."""
        return self.eval_loaders(self._splits_named("validation"), rank, world_size)

    def test_loaders(self, *, rank: int = 0, world_size: int = 1) -> dict[str, DataLoader[Any]]:
        """Return the loaders of the splits whose names start with `test`."""
        return self.eval_loaders(self._splits_named("test"), rank, world_size)

    # Helpers of subclasses.

    def encode_splits(
        self, splits: dict[str, Examples], processor: Any, key: tuple[str, int, str]
    ) -> dict[str, Any]:
        """Tokenize splits; see `Prepared.key`."""
        folder = Path(key[2]) / "tokens"
        return {
            name: self.encode(examples, processor, identity=key[0], cache_dir=folder)
            for name, examples in splits.items()
        }

    def loader(
        self, split: TokenizedSplit, sampler: Iterable[list[int]], *, training: bool = False
    ) -> DataLoader[Any]:
        """Return a loader of these batches of a split."""
        return make_loader(
            split,  # type: ignore[arg-type]
            sampler,
            self.collator(self.prepared.processor, training=training),
            num_workers=self.num_workers,
            seed=self.prepared.seed,
        )

    def eval_loaders(
        self, splits: dict[str, Any], rank: int, world_size: int
    ) -> dict[str, DataLoader[Any]]:
        """Return loaders that give each row of these splits once, longest rows first."""
        loaders = {}
        for name, split in splits.items():
            sampler = EvalBatchSampler(
                split.lengths, self.eval_batch_size, rank=rank, world_size=world_size
            )
            loaders[name] = self.loader(split, sampler)
        return loaders

    def _splits_named(self, prefix: str) -> dict[str, Any]:
        splits = self.prepared.splits
        return {name: split for name, split in splits.items() if name.startswith(prefix)}
