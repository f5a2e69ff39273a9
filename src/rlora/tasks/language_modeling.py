"""Language modeling of texts, with or without prompts: everything but reading the data."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional
from torchmetrics import MetricCollection

from rlora.data.batch import Batch
from rlora.data.examples import Examples
from rlora.data.packing import (
    IGNORED,
    PackingCollator,
    SequenceCollator,
    SequenceFormat,
    Sequences,
)
from rlora.data.split_plan import SplitPlan, SplitResult
from rlora.data.tokenize import Tokens, cached_tokens
from rlora.metrics.exact import Perplexity
from rlora.tasks.text_task import TextTask


@dataclass(frozen=True)
class Pair:
    """A prompt and the text to learn after it.

    Attributes:
        prompt: Text that the model reads; "" where there is none.
        text: Text that the model learns to generate.
        location: File and line, for messages.
    """

    prompt: str
    text: str
    location: str


@dataclass(kw_only=True, eq=False)
class LanguageModeling(TextTask):
    """Causal language modeling of texts; the loss skips the tokens of the prompts.

    loss = mean over text tokens of (1 - e) (-ln p_y) + e mean_v (-ln p_v), e the label smoothing.

    Attributes:
        name: Task name.
        max_length: Maximum number of tokens of prompt and text; a longer text is truncated.
        label_smoothing: e, in the training and the validation loss; the perplexity ignores it.
        end_after_prompt: Whether an end token separates prompt and text.
        packing: Concatenate the examples of a batch into full rows instead of padding each one.

    Raises:
        ValueError: A setting is out of range.
    """

    name: str
    batch_size: int = 8
    eval_batch_size: int = 32
    max_length: int = 512
    label_smoothing: float = 0.0
    end_after_prompt: bool = False
    packing: bool = False
    monitor: str = "perplexity"
    mode: str = "min"
    # Of the first pair with each prompt.
    _locations: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, expected in {"monitor": "perplexity", "mode": "min"}.items():
            if (value := getattr(self, key)) != expected:
                raise ValueError(
                    f"task.{key}={value} is invalid: expected {expected}, by which language "
                    "modeling selects checkpoints."
                )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"task.label_smoothing={self.label_smoothing} is invalid: expected a number from 0 "
                "to below 1."
            )

    # Hooks of a task family.

    @abstractmethod
    def read(self) -> dict[str, list[Pair]]:
        """Return `train`, maybe `validation`, and maybe splits whose names start with `test`.

        Raises:
            ValueError: The data is missing or a row is malformed; the message names file and line.
        """

    # The protocol.

    def head(self) -> dict[str, Any]:
        """Return the head of a language model."""
        return {"kind": "text", "num_labels": 0, "labels": None}

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean loss over the text tokens, float32; the class gives the formula.

        Args:
            outputs: Has `logits` (B, T, V).
            batch: Has `labels` (B, T): the next token at each position, or `IGNORED`.
        """
        logits = outputs.logits.flatten(0, 1).float()
        labels = batch["labels"].flatten()
        return functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, label_smoothing=self.label_smoothing
        )

    def decode(self, outputs: Any) -> Tensor:
        """Return the logits (B, T, V), float32, which the perplexity takes."""
        logits: Tensor = outputs.logits.float()
        return logits

    def new_metrics(self) -> MetricCollection:
        """Return the perplexity per token of the texts, exp(mean -ln p_y)."""
        return MetricCollection({"perplexity": Perplexity(ignore_index=IGNORED)})

    def write_predictions(
        self, directory: Path, loader_name: str, predictions: Sequence[float | int]
    ) -> Path:
        """Raise: a language model predicts no single number per row."""
        raise NotImplementedError(f"{self.name} has no prediction of one number per row")

    def describe(self) -> dict[str, Any]:
        """Return sizes, conventions and sources for the run record."""
        return {
            "name": self.name,
            "rows": {name: len(split) for name, split in self.prepared.splits.items()},
            "split_seed": self.split_seed,
            "train_examples": self.train_examples,
            "max_length": self.max_length,
            "metrics": list(self.new_metrics()),
            **self.source(),
        }

    # Hooks of `TextTask`.

    def split_plan(self) -> SplitPlan:
        """Return the rules that split the training rows, which `read_splits` groups by prompt."""
        return SplitPlan(
            validation="train",
            fraction=self.validation_fraction,
            max_rows=self.validation_max,
            seed=self.split_seed,
            shots=None,
            train_examples=self.train_examples,
            sample_seed=self.sample_seed,
            part=None,
            prior_fraction=0.5,
            fields=(0,),
            contained=False,
        )

    def read_splits(self, processor: Any) -> SplitResult:
        """Return the splits as (prompt, text).

        Rows with the same prompt, or without prompts with the same text, stay in one split.
        """
        self._format(processor)  # raises early where the tokenizer cannot end a text
        pairs = self.read()
        self._locations = {}
        for split in pairs.values():
            for pair in split:
                self._locations.setdefault(pair.prompt, pair.location)
        keyed = {
            name: Examples([(pair.prompt or pair.text, pair.prompt, pair.text) for pair in split])
            for name, split in pairs.items()
        }
        result = self.split_plan().apply(keyed)
        splits = {
            name: Examples([(prompt, text) for _, prompt, text in split.texts])
            for name, split in result.splits.items()
        }
        return SplitResult(splits, result.parts)

    def encode(
        self, examples: Examples, processor: Any, *, identity: str, cache_dir: Path
    ) -> Sequences:
        """Tokenize (prompt, text) pairs.

        Raises:
            ValueError: A prompt leaves no token for its text.
        """

        def tokens(texts: list[str], field: str) -> Tokens:
            return cached_tokens(
                Examples([(text,) for text in texts]),
                processor,
                identity=identity,
                max_length=None,
                label=f"{self.name}-{field}",
                cache_dir=cache_dir,
                special=False,
            )

        # After a separator GPT-2's tokenizer needs the blank that starts a word.
        gap = " " if self.end_after_prompt else ""
        prompts = tokens([prompt for prompt, _ in examples.texts], "prompts")
        texts = tokens([f"{gap}{text}" for _, text in examples.texts], "texts")
        split = Sequences(prompts, texts, self._format(processor), self.max_length)
        self._check_room(split, examples)
        return split

    def collator(
        self, processor: Any, *, training: bool
    ) -> Callable[[list[dict[str, Any]]], Batch]:
        """Return the collator: padding, or packing of training batches."""
        token = processor.pad_token_id
        if training and self.packing:
            return PackingCollator(token, self.max_length)
        return SequenceCollator(token)

    def _format(self, processor: Any) -> SequenceFormat:
        return SequenceFormat.of(processor, end_after_prompt=self.end_after_prompt)

    def _check_room(self, split: Sequences, examples: Examples) -> None:
        """Raise where a prompt leaves no token for its text."""
        surrounding = len(split.format.before_text([]))
        rows = np.flatnonzero(split.prompts.lengths + surrounding > self.max_length)
        if len(rows):
            prompt, _ = examples.texts[rows[0]]
            raise ValueError(
                f"{self._locations[prompt]}: its prompt has {split.prompts.lengths[rows[0]]} "
                f"tokens, and task.max_length={self.max_length} leaves none for the text "
                f"({len(rows)} such rows); raise task.max_length."
            )
