"""Predictions of a trained model: labels with probabilities, scores, or generated texts."""

import contextlib
from collections.abc import Sequence
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
from rlora.regularizers.noise import sample_per_step
from rlora.regularizers.posterior import GaussianPosterior
from rlora.tasks.base import GenerationTask, Task
from rlora.tasks.text_classification import TextClassification

Answer = dict[str, Any]


class Predictor:
    """A trained run that answers rows.

    Args:
        backbone: The model and its processor.
        adapters: Return value of `inject` for the backbone, with the trained values.
        task: Task of the run; none of its data is read.
        device: Device of the computation.
        posterior: Posterior over the trainable parameters, if the run learned one.
        draws: Number of posterior samples to average over; 0: the posterior mean.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: AdapterSet,
        task: Task,
        device: torch.device,
        *,
        posterior: GaussianPosterior | None = None,
        draws: int = 0,
    ) -> None:
        self.backbone, self.adapters = backbone, adapters
        self.task, self.device = task, device
        self.posterior = posterior
        self.draws = 0 if posterior is None else draws
        backbone.model.to(device).eval()
        if isinstance(task, GenerationTask):
            task.processor = backbone.processor

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the inputs of a row."""
        return self.task.fields

    def answer(self, rows: Sequence[tuple[str, ...]]) -> list[Answer]:
        """Answer a batch of rows.

        Raises:
            ValueError: A row is malformed.
        """
        if isinstance(self.task, GenerationTask):
            return self._generate(self.task, rows)
        return self._classify(rows)

    def _generate(self, task: GenerationTask, rows: Sequence[tuple[str, ...]]) -> list[Answer]:
        generator = Generator(
            self.adapters,
            task,
            device=self.device,
            precision=Precision(),
            console=Console(quiet=True),
        )
        (prompts,) = task.prompts([source for (source,) in rows]).values()
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
