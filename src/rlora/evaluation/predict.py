"""Answers of a trained model to rows: labels with probabilities, scores, or texts."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.plugins.precision import Precision
from rich.console import Console
from torch import Tensor

from rlora.adapters import AdapterSet
from rlora.data.batch import Batch, to_device
from rlora.data.collate import EncodedSplit, Padding
from rlora.data.examples import Examples
from rlora.data.tokenize import tokenize
from rlora.evaluation.generate import Generator
from rlora.models.backbone import Backbone
from rlora.regularizers.base import Regularizer, Step
from rlora.tasks.base import Task
from rlora.tasks.generation import GenerationTask
from rlora.tasks.text_classification import TextClassification

Answer = dict[str, Any]


class Predictor:
    """A trained run that answers.

    Args:
        backbone: The model and its tokenizer.
        adapters: What `inject` gave for it, with the trained values.
        task: Its task; no data of it is read.
        device: Where to compute.
        posterior: The regularizer of the run, where that holds a posterior.
        draws: Draws of the posterior, where there is one.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: AdapterSet,
        task: Task,
        device: torch.device,
        *,
        posterior: Regularizer | None = None,
        draws: int = 0,
    ) -> None:
        self.backbone, self.adapters, self.task = backbone, adapters, task
        self.device, self.posterior = device, posterior
        backbone.model.to(device).eval()
        self.draws = 0 if posterior is None else draws

    @property
    def fields(self) -> tuple[str, ...]:
        """What a row consists of."""
        return self.task.fields

    def answer(self, rows: Sequence[tuple[str, ...]]) -> list[Answer]:
        """Answer some rows at once."""
        if isinstance(self.task, GenerationTask):
            return self._texts(rows)
        return self._labels(rows)

    def _texts(self, rows: Sequence[tuple[str, ...]]) -> list[Answer]:
        task = self.task
        assert isinstance(task, GenerationTask)
        pen = task.pen(self.backbone.processor)
        generator = Generator(
            self.adapters,
            pen,
            device=self.device,
            precision=Precision(),
            console=Console(quiet=True),
        )
        prompts = [
            pen.before(task.prompt_for(row[0], f"row {number}"))
            for number, row in enumerate(rows, start=1)
        ]
        with generator.ready():
            return [{"text": text} for text in generator.batch(prompts)]

    def _labels(self, rows: Sequence[tuple[str, ...]]) -> list[Answer]:
        task, tokenizer = self.task, self.backbone.processor
        assert isinstance(task, TextClassification)
        tokens = tokenize(Examples(list(rows)), tokenizer, max_length=task.max_length, label="rows")
        split = EncodedSplit(tokens, None)
        batch = Padding.of(tokenizer)([split[row] for row in range(len(rows))])
        batch = to_device(batch, self.device)
        drawn = torch.stack(
            [self._scores(batch, draw) for draw in range(self.draws)] or [self._scores(batch, None)]
        )
        return _answers(task, drawn)

    @torch.no_grad()
    def _scores(self, batch: Batch, draw: int | None) -> Tensor:
        """Probabilities (B, C), or scores (B, 1); of a draw of the posterior, or of its mean."""
        posterior = self.posterior
        around = (
            contextlib.nullcontext()
            if draw is None or posterior is None
            else posterior.perturbed(Step(seed=draw, examples=len(batch["index"])))
        )
        with around:
            logits: Tensor = self.backbone.model(**batch["inputs"]).logits.float().cpu()
        return logits if self.task.head()["kind"] == "regression" else logits.softmax(-1)


def _answers(task: TextClassification, drawn: Tensor) -> list[Answer]:
    """Means over draws (D, B, C), and where there are several their standard deviation."""
    means, spreads = drawn.mean(0).tolist(), drawn.std(0).tolist() if len(drawn) > 1 else None
    answers: list[Answer] = []
    for row, values in enumerate(means):
        if task.labels is None:
            answers.append(
                {"prediction": values[0]} | ({"spread": spreads[row][0]} if spreads else {})
            )
            continue
        names = list(task.labels)
        answer: Answer = {"prediction": names[max(range(len(names)), key=values.__getitem__)]}
        answer["probabilities"] = dict(zip(names, values, strict=True))
        answers.append(
            answer | ({"spread": dict(zip(names, spreads[row], strict=True))} if spreads else {})
        )
    return answers
