"""Language modeling of texts, after prompts or without: everything but reading the raw data."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.text import Perplexity

from rlora.data.batch import Batch
from rlora.data.collate import make_loader
from rlora.data.examples import Examples, fingerprint
from rlora.data.packing import IGNORED, Layout, Packed, Padded, Sequences
from rlora.data.sampler import EvalBatchSampler, TrainBatchSampler
from rlora.data.split_plan import Division
from rlora.data.tokenize import cached_tokens, tokenizer_identity
from rlora.tasks.base import Task


@dataclass(frozen=True)
class Pair:
    """A prompt and the text that is learned after it.

    Attributes:
        prompt: What the model reads; "" where there is none.
        text: What it learns to write.
        place: File and line, for messages.
    """

    prompt: str
    text: str
    place: str


@dataclass(frozen=True)
class Ready:
    """What ``setup`` leaves behind: the arguments of it, the splits, their digest, the tokenizer and its layout."""

    key: tuple[str, int, str]
    splits: dict[str, Sequences]
    fingerprint: str
    tokenizer: Any
    layout: Layout


@dataclass(kw_only=True, eq=False)
class LanguageModeling(Task):
    """Causal language modeling of texts; where they follow prompts, the loss is on the texts alone.

    loss = mean over text tokens of (1 - e) (-ln p_y) + e mean_v (-ln p_v), e the label smoothing.

    Attributes:
        name: Task name.
        batch_size: Training examples per step and process.
        eval_batch_size: Examples per batch without gradients.
        max_length: Most tokens of prompt and text together; the text is cut to it.
        label_smoothing: e, in training and validation loss; the perplexity knows none.
        parted: Whether an end token stands between prompt and text.
        packing: Lay a batch's examples one behind the other instead of padding each.
        num_workers: Loader processes; None: see `default_workers`.
        validation_fraction: Share of train that becomes validation, where there is no official one.
        validation_max: Most rows of it.
        split_seed: Seed of that split, not the run's.
        train_examples: Train on so many rows of train, drawn at random; None: on all.
        sample_seed: Seed of that sample.
        path: Where the data lies, or None for the task's own search order.

    Raises:
        ValueError: a setting is out of range.
    """

    name: str
    batch_size: int = 8
    eval_batch_size: int = 32
    max_length: int = 512
    label_smoothing: float = 0.0
    parted: bool = False
    packing: bool = False
    num_workers: int | None = None
    validation_fraction: float = 0.05
    validation_max: int = 2000
    split_seed: int = 0
    train_examples: int | None = None
    sample_seed: int = 13
    path: str | Path | None = None
    monitor: str = "perplexity"
    mode: str = "min"
    trained_modules: tuple[str, ...] = ()
    _ready: Ready | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.trained_modules = tuple(self.trained_modules)
        if (self.monitor, self.mode) != ("perplexity", "min"):
            wrong = "monitor" if self.monitor != "perplexity" else "mode"
            raise ValueError(
                f"task.{wrong}={getattr(self, wrong)}: texts are monitored by perplexity, mode=min."
            )
        for key in ("batch_size", "eval_batch_size", "max_length", "validation_max"):
            if getattr(self, key) < 1:
                raise ValueError(f"task.{key}={getattr(self, key)} must be at least 1.")
        for key in ("num_workers", "split_seed", "sample_seed")[
            self.num_workers is None :
        ]:  # which may be None
            if getattr(self, key) < 0:
                raise ValueError(f"task.{key}={getattr(self, key)} must not be negative.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"task.label_smoothing={self.label_smoothing} must lie between 0 and 1."
            )
        self._division()

    # What a task adds.

    @abstractmethod
    def read(self) -> dict[str, list[Pair]]:
        """Return ``train``, maybe ``validation``, and maybe splits whose names start with ``test``.

        Raises:
            ValueError: the data is missing, or a row is malformed; told by file and line.
        """

    @abstractmethod
    def source(self) -> dict[str, str]:
        """Return where the data came from: ``source`` and ``location``."""

    # The protocol.

    def head(self) -> dict[str, Any]:
        """Return that text is asked for."""
        return {"kind": "text", "num_labels": 0}

    def setup(self, processor: Any, *, seed: int, cache_dir: Path) -> None:
        """Read, split and tokenize; see the protocol.

        Raises:
            ValueError: the data is missing or malformed, or a prompt is too long.
        """
        key = (tokenizer_identity(processor), seed, str(cache_dir))
        if self._ready is not None and self._ready.key == key:
            return
        if processor.model_max_length < self.max_length:
            raise ValueError(
                f"task.max_length={self.max_length} is more than the {processor.model_max_length} tokens of the "
                "model; lower task.max_length."
            )
        layout = Layout.of(processor, parted=self.parted)
        read = self.read()
        divided = self._divided(read)
        splits = {
            name: self._encode(split, processor, key, layout) for name, split in divided.items()
        }
        for name, split in splits.items():
            self._check_room(split, divided[name], read)
        self._ready = Ready(key, splits, fingerprint(divided), processor, layout)

    @property
    def num_train_examples(self) -> int:
        """Number of training examples."""
        return len(self.ready.splits["train"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the prompts and texts of all splits."""
        return self.ready.fingerprint

    def train_loader(self, *, rank: int = 0, world_size: int = 1) -> DataLoader[Any]:
        """Return shuffled batches of similar length; ``batch_sampler`` has ``set_epoch`` and ``skip``."""
        split, seed = self.ready.splits["train"], self.ready.key[1]
        sampler = TrainBatchSampler(
            split.lengths, self.batch_size, seed=seed, rank=rank, world_size=world_size
        )
        token = self.ready.tokenizer.pad_token_id
        collate = Packed(token, self.max_length) if self.packing else Padded(token)
        return make_loader(split, sampler, collate, num_workers=self.num_workers, seed=seed)

    def validation_loaders(
        self, *, rank: int = 0, world_size: int = 1
    ) -> dict[str, DataLoader[Any]]:
        """Return the validation set under ``validation``."""
        return self._eval_loaders("validation", rank, world_size)

    def test_loaders(self, *, rank: int = 0, world_size: int = 1) -> dict[str, DataLoader[Any]]:
        """Return the test sets that `read` gives."""
        return self._eval_loaders("test", rank, world_size)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean loss of the text tokens in float32; see the class.

        Args:
            outputs: Has ``logits`` (B, T, V).
            batch: Has ``labels`` (B, T), each the token that follows, or `IGNORED`.
        """
        logits = outputs.logits.flatten(0, 1).float()
        labels = batch["labels"].flatten()
        return functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, label_smoothing=self.label_smoothing
        )

    def decode(self, outputs: Any) -> Tensor:
        """Return the logits (B, T, V), float32, which is what the perplexity asks for."""
        logits: Tensor = outputs.logits.float()
        return logits

    def new_metrics(self) -> MetricCollection:
        """Return the perplexity per token of the texts, exp(mean -ln p_y)."""
        return MetricCollection({"perplexity": Perplexity(ignore_index=IGNORED)})

    def write_predictions(
        self, directory: Path, loader_name: str, predictions: Sequence[float | int]
    ) -> Path:
        """Refuse: there are none."""
        raise NotImplementedError(f"{self.name} has no predictions of one number a row")

    def describe(self) -> dict[str, Any]:
        """Return sizes, conventions and sources for the run record."""
        return {
            "name": self.name,
            "rows": {name: len(split) for name, split in self.ready.splits.items()},
            "split_seed": self.split_seed,
            "train_examples": self.train_examples,
            "max_length": self.max_length,
            "metrics": list(self.new_metrics()),
            **self.source(),
        }

    @property
    def ready(self) -> Ready:
        """What ``setup`` left."""
        if self._ready is None:
            raise RuntimeError(f"Task {self.name} has no data yet; call setup() first.")
        return self._ready

    def _division(self) -> Division:
        return Division(
            validation="train",
            fraction=self.validation_fraction,
            most=self.validation_max,
            seed=self.split_seed,
            shots=None,
            train_examples=self.train_examples,
            sample_seed=self.sample_seed,
            part=None,
            prior_fraction=0.5,
            fields=(0,),
            contained=False,
        )

    def _divided(self, read: Mapping[str, Sequence[Pair]]) -> dict[str, Examples]:
        """The splits as (prompt, text); rows of one prompt, or of one text where there is none, stay together."""
        keyed = {
            k: Examples([(p.prompt or p.text, p.prompt, p.text) for p in pairs])
            for k, pairs in read.items()
        }
        divided = self._division().of(keyed).splits
        return {
            name: Examples([(prompt, text) for _, prompt, text in split.texts])
            for name, split in divided.items()
        }

    def _encode(
        self, split: Examples, tokenizer: Any, key: tuple[str, int, str], layout: Layout
    ) -> Sequences:
        def tokens(texts: list[str], what: str) -> Any:
            return cached_tokens(
                Examples([(text,) for text in texts]),
                tokenizer,
                identity=key[0],
                max_length=None,
                label=f"{self.name}-{what}",
                cache_dir=Path(key[2]) / "tokens",
                special=False,
            )

        gap = " " if self.parted else ""  # GPT-2's words begin with their blank
        prompts = tokens([prompt for prompt, _ in split.texts], "prompts")
        texts = tokens([f"{gap}{text}" for _, text in split.texts], "texts")
        return Sequences(prompts, texts, layout, self.max_length)

    def _check_room(
        self, split: Sequences, examples: Examples, read: Mapping[str, Sequence[Pair]]
    ) -> None:
        """Refuse prompts that leave no token for a text."""
        long = np.flatnonzero(
            split.prompts.lengths + len(split.layout.before([])) > self.max_length
        )
        if len(long):
            prompt, _ = examples.texts[long[0]]
            place = next(
                pair.place for pairs in read.values() for pair in pairs if pair.prompt == prompt
            )
            raise ValueError(
                f"{place}: its prompt has {split.prompts.lengths[long[0]]} tokens, and task.max_length="
                f"{self.max_length} leaves none for the text ({len(long)} such rows); raise task.max_length."
            )

    def _eval_loaders(self, prefix: str, rank: int, world: int) -> dict[str, DataLoader[Any]]:
        ready, loaders = self.ready, {}
        for name, split in ready.splits.items():
            if name.startswith(prefix):
                sampler = EvalBatchSampler(
                    split.lengths, self.eval_batch_size, rank=rank, world_size=world
                )
                collate = Padded(ready.tokenizer.pad_token_id)
                loaders[name] = make_loader(
                    split, sampler, collate, num_workers=self.num_workers, seed=ready.key[1]
                )
        return loaders
