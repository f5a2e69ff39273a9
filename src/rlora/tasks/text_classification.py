"""Classification or regression of one text or a pair of texts: everything but reading the raw data."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from rlora.data.collate import EncodedSplit, Padding, make_loader
from rlora.data.examples import Examples, fingerprint
from rlora.data.sampler import EvalBatchSampler, TrainBatchSampler
from rlora.data.split_plan import Division
from rlora.data.splits import normalize
from rlora.data.tokenize import cached_tokens, tokenizer_identity
from rlora.tasks.submissions import format_prediction, write_table
from rlora.tasks.supervised import LabeledTask


@dataclass(frozen=True)
class _Ready:
    """What ``setup`` leaves behind."""

    key: tuple[str, int, str]
    splits: dict[str, EncodedSplit]
    fingerprint: str
    encode: Any
    padding: Padding
    examples: dict[str, Examples]
    parts: dict[str, str]


@dataclass(kw_only=True, eq=False)
class TextClassification(LabeledTask):
    """Sequence classification, or regression where ``labels`` is None.

    By default the official development set is the test set, and every choice is made on a part of train in which no
    text of the remaining training rows occurs.

    Attributes:
        batch_size: Training examples per step and process.
        eval_batch_size: Examples per batch without gradients.
        max_length: Most tokens of an example.
        num_workers: Loader processes; None: see `default_workers`.
        validation: ``train`` (a part of train) or ``dev`` (the official development set, then the test set too).
        validation_fraction: Share of train that becomes validation.
        validation_max: Most rows of it.
        split_seed: Seed of that split, not the run's: runs over several seeds share their splits.
        shots: Rows per class of train and of validation in the few-shot protocol, or None.
        train_examples: Train on so many rows of train, drawn at random; None: on all. Validation stays as it is.
        sample_seed: Seed of either sample.
        part: ``prior`` or ``rest``: train on that part only, which shares nothing with the other; None: on all.
        prior_fraction: Share of the rows that is the prior's.
        contained: Whether rows may contain one another, as phrases of one sentence do.
        path: Where the data lies, or None for the task's own search order.
        trained_modules: Backbone submodules trained in full.

    Raises:
        ValueError: A setting is out of range or has no meaning for this task.
    """

    batch_size: int = 32
    eval_batch_size: int = 64
    max_length: int = 128
    num_workers: int | None = None
    validation: str = "train"
    validation_fraction: float = 0.05
    validation_max: int = 2000
    split_seed: int = 0
    shots: int | None = None
    train_examples: int | None = None
    sample_seed: int = 13
    part: str | None = None
    prior_fraction: float = 0.5
    contained: bool = False
    path: str | Path | None = None
    trained_modules: tuple[str, ...] = ("classifier", "score")
    _ready: _Ready | None = field(default=None, init=False, repr=False)
    _unlabeled: dict[str, EncodedSplit] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.trained_modules = tuple(self.trained_modules)
        for key in ("batch_size", "eval_batch_size", "max_length", "validation_max"):
            if getattr(self, key) < 1:
                raise ValueError(f"task.{key}={getattr(self, key)} must be at least 1.")
        for key in ("num_workers", "split_seed", "sample_seed")[
            self.num_workers is None :
        ]:  # which may be None
            if getattr(self, key) < 0:
                raise ValueError(f"task.{key}={getattr(self, key)} must not be negative.")
        self.division()
        if self.shots is not None and self.labels is None:
            raise ValueError(
                f"task.shots={self.shots} draws rows per class, but {self.name} is a regression task without classes; "
                "set task.shots=null."
            )

    # What a family of tasks adds.

    @abstractmethod
    def read(self) -> dict[str, Examples]:
        """Return ``train``, ``test``, maybe ``validation`` and further splits whose names start with ``test``."""

    @abstractmethod
    def source(self) -> dict[str, str]:
        """Return where the data came from: ``source`` (directory, hub or package) and ``location``."""

    def read_unlabeled(self) -> dict[str, Examples]:
        """Return the unlabeled splits by loader name."""
        return {}

    def group_fields(self) -> Sequence[int] | None:
        """Return the positions of the text fields that bind rows together in the split, or None for all."""
        return None

    def file_name(self, loader_name: str) -> str:
        """Return the name of a loader's prediction file."""
        return f"{loader_name}.tsv"

    # The protocol.

    def setup(self, processor: Any, *, seed: int, cache_dir: Path) -> None:
        """Read, split and tokenize; see the protocol.

        Raises:
            ValueError: The data is missing or malformed, or a setting does not fit it.
        """
        if processor.model_max_length < self.max_length:
            raise ValueError(
                f"task.max_length={self.max_length} is more than the {processor.model_max_length} tokens of the "
                "model; lower task.max_length."
            )
        identity = tokenizer_identity(processor)
        key = (identity, seed, str(cache_dir))
        if self._ready is not None and self._ready.key == key:
            return
        encode = partial(
            self._encode, tokenizer=processor, identity=identity, folder=Path(cache_dir) / "tokens"
        )
        divided = self.division().of(self.read())
        splits = {name: encode(split) for name, split in divided.splits.items()}
        self._ready = _Ready(
            key,
            splits,
            fingerprint(divided.splits),
            encode,
            Padding.of(processor),
            divided.splits,
            divided.parts,
        )
        self._unlabeled = None

    @property
    def num_train_examples(self) -> int:
        """Number of training examples."""
        return len(self._setup_done().splits["train"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the texts and labels of train, validation and test."""
        return self._setup_done().fingerprint

    def train_loader(self, *, rank: int = 0, world_size: int = 1) -> DataLoader[Any]:
        """Return shuffled batches of similar length; ``batch_sampler`` has ``set_epoch`` and ``skip``."""
        ready = self._setup_done()
        split, seed = ready.splits["train"], ready.key[1]
        lengths = split.tokens.lengths
        sampler = TrainBatchSampler(
            lengths, self.batch_size, seed=seed, rank=rank, world_size=world_size
        )
        return make_loader(split, sampler, ready.padding, num_workers=self.num_workers, seed=seed)

    def validation_loaders(
        self, *, rank: int = 0, world_size: int = 1
    ) -> dict[str, DataLoader[Any]]:
        """Return the validation set under ``validation``."""
        return self._eval_loaders(
            {"validation": self._setup_done().splits["validation"]}, rank, world_size
        )

    def test_loaders(self, *, rank: int = 0, world_size: int = 1) -> dict[str, DataLoader[Any]]:
        """Return the test set under ``test``, and further ones under names that start with it."""
        splits = self._setup_done().splits
        return self._eval_loaders(
            {k: v for k, v in splits.items() if k.startswith("test")}, rank, world_size
        )

    def predict_loaders(self, *, rank: int = 0, world_size: int = 1) -> dict[str, DataLoader[Any]]:
        """Return the unlabeled official test sets, read when first asked for."""
        return self._eval_loaders(self._unlabeled_splits(), rank, world_size)

    def certification_loader(
        self, rows: NDArray[np.int64], batch_size: int | None
    ) -> DataLoader[Any]:
        """Return these training rows in batches of similar length."""
        ready = self._setup_done()
        split, size = ready.splits["train"], batch_size or self.eval_batch_size
        order = rows[np.argsort(split.tokens.lengths[rows], kind="stable")]
        batches = [order[start : start + size].tolist() for start in range(0, len(order), size)]
        return make_loader(
            split, batches, ready.padding, num_workers=self.num_workers, seed=ready.key[1]
        )

    def train_groups(self) -> list[NDArray[np.int64]]:
        """Return the groups of each training row."""
        return self.division().groups(self._setup_done().examples["train"])

    def train_rows_in_validation(self) -> int:
        """Return how many training rows have the very texts of a validation row, case and white space apart."""
        examples = self._setup_done().examples
        seen = {tuple(map(normalize, texts)) for texts in examples["validation"].texts}
        return sum(tuple(map(normalize, texts)) in seen for texts in examples["train"].texts)

    def write_predictions(
        self, directory: Path, loader_name: str, predictions: Sequence[float | int]
    ) -> Path:
        """Write ``index`` and ``prediction`` (a label name, or a score clipped to its range) per row.

        Raises:
            ValueError: No such loader, a wrong number of predictions, or a prediction without a label.
        """
        splits = {**self._setup_done().splits, **self._unlabeled_splits()}
        if loader_name not in splits:
            raise ValueError(
                f"{self.name} has no split {loader_name!r}; use one of {sorted(splits)}."
            )
        if len(predictions) != len(splits[loader_name]):
            raise ValueError(
                f"{len(predictions)} predictions for the {len(splits[loader_name])} rows of {self.name} {loader_name}; "
                "give one per row, in the order of batch['index']."
            )
        limits = (self.score_range[0], self.score_range[1]) if self.score_range else None
        lines = [format_prediction(value, self.labels, limits) for value in predictions]
        return write_table(Path(directory) / self.file_name(loader_name), lines)

    def describe(self) -> dict[str, Any]:
        """Return split sizes, the validation convention, the few-shot sample, the source and the metrics."""
        splits = self._setup_done().splits
        return {
            "name": self.name,
            "rows": {name: len(split) for name, split in splits.items()},
            "validation": "dev" if self.validation == "dev" else "train-split",
            "split_seed": self.split_seed,
            "shots": self.shots,
            "train_examples": self.train_examples,
            "sample_seed": None if self.shots is self.train_examples is None else self.sample_seed,
            "part": self.part,
            "parts": self._setup_done().parts,
            "max_length": self.max_length,
            "labels": None if self.labels is None else list(self.labels),
            "metrics": list(self.metrics),
            **self.source(),
        }

    def _setup_done(self) -> _Ready:
        if self._ready is None:
            raise RuntimeError(f"Task {self.name} has no data yet; call setup() first.")
        return self._ready

    def division(self) -> Division:
        """Return the rules by which the training rows are divided."""
        return Division(
            validation=self.validation,
            fraction=self.validation_fraction,
            most=self.validation_max,
            seed=self.split_seed,
            shots=self.shots,
            train_examples=self.train_examples,
            sample_seed=self.sample_seed,
            part=self.part,
            prior_fraction=self.prior_fraction,
            fields=self.group_fields(),
            contained=self.contained,
        )

    def _encode(
        self, examples: Examples, *, tokenizer: Any, identity: str, folder: Path
    ) -> EncodedSplit:
        labels = examples.label_array(None if self.labels is None else len(self.labels))
        tokens = cached_tokens(
            examples,
            tokenizer,
            identity=identity,
            max_length=self.max_length,
            label=self.name,
            cache_dir=folder,
        )
        return EncodedSplit(tokens, labels)

    def _unlabeled_splits(self) -> dict[str, EncodedSplit]:
        if self._unlabeled is None:
            encode = self._setup_done().encode
            self._unlabeled = {
                name: encode(examples) for name, examples in self.read_unlabeled().items()
            }
        return self._unlabeled

    def _eval_loaders(
        self, splits: dict[str, EncodedSplit], rank: int, world: int
    ) -> dict[str, DataLoader[Any]]:
        ready, loaders = self._setup_done(), {}
        for name, split in splits.items():
            sampler = EvalBatchSampler(
                split.tokens.lengths, self.eval_batch_size, rank=rank, world_size=world
            )
            loaders[name] = make_loader(
                split, sampler, ready.padding, num_workers=self.num_workers, seed=ready.key[1]
            )
        return loaders
