"""Predictions of a trained model: labels with probabilities, scores, or generated texts."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.plugins.precision import Precision
from rich.console import Console
from torch import Tensor

from rlora.adapters import AdapterSet
from rlora.data.batch import Batch, to_device
from rlora.data.collate import EncodedSplit, PaddingCollator
from rlora.data.examples import Examples
from rlora.data.tokenize import tokenize
from rlora.evaluation.generate import Generator
from rlora.models.backbone import Backbone
from rlora.records.scores import defined, undefined
from rlora.regularizers.noise import sample_per_step
from rlora.regularizers.posterior import GaussianPosterior
from rlora.tasks.base import GenerationTask, Task
from rlora.tasks.text_classification import TextClassification

DEFAULT_DRAWS = 16

Answer = dict[str, Any]


@dataclass(frozen=True)
class PredictedRow:
    """A row to predict.

    Attributes:
        location: File and line.
        values: Values by column.
        inputs: What the model reads.
        target: Label or reference text, or None.
        target_error: Why the row has a label or reference text that the task cannot read, or None.
    """

    location: str
    values: Mapping[str, Any]
    inputs: tuple[str, ...]
    target: Any
    target_error: str | None


class Predictor:
    """A trained run that answers rows.

    Args:
        backbone: The model and its processor.
        adapters: Return value of `inject` for the backbone, with the trained values.
        task: Task of the run; none of its data is read.
        device: Device of the computation.
        posterior: Posterior over the trainable parameters, if the run learned one.
        draws: Number of posterior samples to average over; 0: the posterior mean. None: 16 where
            the run learned a posterior over a classifier.

    Raises:
        ValueError: There is nothing to draw from.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: AdapterSet,
        task: Task,
        device: torch.device,
        *,
        posterior: GaussianPosterior | None = None,
        draws: int | None = 0,
    ) -> None:
        self.backbone, self.adapters = backbone, adapters
        self.task, self.device = task, device
        self.posterior = posterior
        if not isinstance(task, GenerationTask | TextClassification):
            raise ValueError(
                f"run has the task {task.name}, which neither classifies texts nor generates them: "
                "expected a run of another task"
            )
        samples = posterior is not None and not isinstance(task, GenerationTask)
        if draws and not samples:
            reason = "has no posterior" if posterior is None else "generates texts by its mean"
            raise ValueError(f"draws={draws} has no effect, because the run {reason}: remove draws")
        self.draws = (DEFAULT_DRAWS if samples else 0) if draws is None else draws
        backbone.model.to(device).eval()
        if isinstance(task, GenerationTask):
            task.processor = backbone.processor

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the inputs of a row."""
        return self.task.fields

    @property
    def columns(self) -> tuple[str, ...]:
        """Keys of an answer."""
        if isinstance(self.task, GenerationTask):
            return ("text",)
        return ("prediction", "probabilities", "spread")

    def check(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[PredictedRow]:
        """Yield the rows at these locations, checked.

        Raises:
            ValueError: A row is malformed, its prompt is too long, or its columns are named like
                those of an answer; the message starts with its location.
        """
        for location, values in rows:
            known = as_columns(values, self.task.row_columns)
            inputs = self.task.row_inputs(known, location)
            if taken := [name for name in values if name.partition(".")[0] in self.columns]:
                raise ValueError(
                    f"{location}: its column {taken[0]!r} has the name of a predicted one; rename "
                    "or remove it"
                )
            if isinstance(self.task, GenerationTask):
                self.task.encode_prompt(inputs[0], location)
            try:
                target, error = self.task.row_target(known, location), None
            except ValueError as reason:
                target, error = None, str(reason)
            yield PredictedRow(location, values, inputs, target, error)

    def answer(self, rows: Sequence[PredictedRow]) -> list[Answer]:
        """Answer a batch of rows."""
        if isinstance(self.task, GenerationTask):
            return self._generate(self.task, rows)
        return self._classify([row.inputs for row in rows])

    def _generate(self, task: GenerationTask, rows: Sequence[PredictedRow]) -> list[Answer]:
        generator = Generator(
            self.adapters,
            task,
            device=self.device,
            precision=Precision(),
            console=Console(quiet=True),
        )
        prompts = [task.encode_prompt(row.inputs[0], row.location) for row in rows]
        with generator.ready():
            return [{"text": text} for text in generator.generate_batch(prompts)]

    def _classify(self, rows: Sequence[tuple[str, ...]]) -> list[Answer]:
        task, tokenizer = self.task, self.backbone.processor
        assert isinstance(task, TextClassification)
        tokens = tokenize(Examples(list(rows)), tokenizer, max_length=task.max_length, label="rows")
        split = EncodedSplit(tokens, None)
        batch = PaddingCollator.of(tokenizer)([split[row] for row in range(len(rows))])
        batch = to_device(batch, self.device)
        draws: list[int | None] = [*range(self.draws)] or [None]
        return _answers(task, torch.stack([self._scores(batch, draw) for draw in draws]))

    @torch.no_grad()
    def _scores(self, batch: Batch, draw: int | None) -> Tensor:
        """Return probabilities (B, C) or scores (B, 1), of a posterior sample or of its mean."""
        parameters: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if draw is not None and self.posterior is not None:
            # one sample for all rows, whatever noise the training used: the answer to a row must
            # not depend on the batch around it
            parameters = sample_per_step(self.posterior, seed=draw)
        with parameters:
            logits: Tensor = self.backbone.model(**batch["inputs"]).logits.float().cpu()
        return logits if self.task.head()["kind"] == "regression" else logits.softmax(-1)


class RowScores:
    """Scores of the predicted rows that have a label or a reference text.

    Attributes:
        error: Why there are no scores, or None.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.error: str | None = None
        self._inputs: list[tuple[str, ...]] = []
        self._targets: list[Any] = []
        self._predictions: list[Any] = []

    def add(self, row: PredictedRow, answer: Answer) -> None:
        """Add a row and its answer."""
        self.error = self.error or row.target_error
        if row.target is None:
            return
        self._inputs.append(row.inputs)
        self._targets.append(row.target)
        self._predictions.append(answer["text" if "text" in answer else "prediction"])

    def text(self) -> str | None:
        """Return the scores as a line, or why there are none; None where no row has a label."""
        if self.error is not None:
            return f"no scores: {self.error}"
        if not self._targets:
            return None
        scores = self.task.score_rows(self._inputs, self._targets, self._predictions)
        missing = {**undefined(scores.values), **scores.missing}
        values = [f"{name} {value:.4f}" for name, value in defined(scores.values).items()]
        values += [f"{name} not computed ({reason})" for name, reason in missing.items()]
        return f"scores of {len(self._targets)} labeled rows: {', '.join(values)}"


def as_columns(values: Mapping[str, Any], columns: Sequence[str]) -> Mapping[str, Any]:
    """Return a row whose columns have the task's spelling, where blanks or case alone differ."""
    spelling = {name.strip().casefold(): name for name in columns if name not in values}
    return {spelling.get(name.strip().casefold(), name): each for name, each in values.items()}


def _answers(task: TextClassification, scores: Tensor) -> list[Answer]:
    """Return means over D draws (D, B, C) and, for D > 1, standard deviations as `spread`."""
    means = scores.mean(0).tolist()
    spreads = scores.std(0).tolist() if len(scores) > 1 else None
    answers: list[Answer] = []
    for row, values in enumerate(means):
        spread = spreads[row] if spreads else None
        if task.labels is None:
            answer: Answer = {"prediction": values[0]}
            if spread:
                answer["spread"] = spread[0]
        else:
            names = list(task.labels)
            answer = {
                "prediction": names[values.index(max(values))],
                "probabilities": dict(zip(names, values, strict=True)),
            }
            if spread:
                answer["spread"] = dict(zip(names, spread, strict=True))
        answers.append(answer)
    return answers
