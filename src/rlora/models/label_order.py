"""The label order of a checkpoint's head: which of its rows belongs to which label of a task."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)
_NUMBERED = re.compile(r"(?:label[ _-]?)?(\d+)")


@dataclass(frozen=True)
class SavedHead:
    """What a checkpoint's config says of its head; read it before the config is changed.

    Args:
        names: Label names by row.
        problem_type: "regression", "single_label_classification", "multi_label_classification", or
            None where the config has none.
    """

    names: tuple[str, ...]
    problem_type: str | None

    @classmethod
    def of(cls, config: Any) -> "SavedHead":
        """Return the head that a transformers config describes."""
        names = getattr(config, "id2label", None) or {}
        ordered = tuple(str(names[key]) for key in sorted(names, key=int))
        return cls(ordered, getattr(config, "problem_type", None))

    @property
    def gives_scores(self) -> bool:
        """Whether its outputs are scores of a regression: transformers' rule for one output."""
        return self.problem_type == "regression" or (
            self.problem_type is None and len(self.names) == 1
        )

    def __str__(self) -> str:
        kind = "a regression" if self.gives_scores else f"labels {', '.join(self.names)}"
        return f"{kind} ({len(self.names)} outputs)"


def rows_of_labels(saved: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """Return the row of a saved head for each label of a task, or None where the names differ.

    Names are compared without case and punctuation. Numbered names, such as "LABEL_0" or "0", say
    the position: on either side they match whatever name has that position on the other.

    Args:
        saved: Names by row of the head.
        labels: Names by class id of the task.
    """
    if len(saved) != len(labels):
        return None
    theirs, ours = list(map(_normalized, saved)), list(map(_normalized, labels))
    if sorted(theirs) == sorted(ours) and len(set(ours)) == len(ours):
        return [theirs.index(name) for name in ours]
    their_positions, our_positions = _positions(theirs), _positions(ours)
    if their_positions is None and our_positions is None:
        return None
    identity = list(range(len(labels)))
    rows = their_positions or identity
    return [rows.index(position) for position in our_positions or identity]


def are_numbered(names: Sequence[str]) -> bool:
    """Return whether the names say positions alone."""
    return _positions(list(map(_normalized, names))) is not None


def fit_head(
    model: Any,
    saved: SavedHead,
    *,
    kind: str,
    labels: Sequence[str] | None,
    missing: Sequence[str],
    mismatched: Sequence[str],
    seed: int,
) -> tuple[list[str], str]:
    """Give a loaded model's head the outputs of the task, in its order, in place.

    Args:
        model: The model, with the task's number of outputs.
        saved: The head in the checkpoint.
        kind: "classification", "regression" or "text", which has no head.
        labels: Names by class id of the task; None: the order of the checkpoint is kept.
        missing: Parameters that the checkpoint lacks.
        mismatched: Parameters that it has in another shape.
        seed: Seed of new start values.

    Returns:
        The parameters of the head that get new start values here, and why the checkpoint's head is
        not used: "" where it is, and where there is none.
    """
    layer = None if kind == "text" else final_layer(model, model.config.num_labels)
    if layer is None:
        return [], ""
    name, module = layer
    outputs = f"{model.config.num_labels} outputs" if labels is None else f"labels {list(labels)}"
    reason = f"the checkpoint's head has {saved}, the task has {outputs}"
    if f"{name}.weight" in mismatched:
        return [], reason
    if f"{name}.weight" in missing:
        return [], ""
    rows = None if labels is None else rows_of_labels(saved.names, labels)
    if saved.gives_scores != (kind == "regression") or (labels is not None and rows is None):
        renew(module, float(getattr(model.config, "initializer_range", 0.02)), seed)
        return [f"{name}.{each}" for each, _ in module.named_parameters()], reason
    if rows is not None and rows != list(range(len(rows))):
        reorder(module, rows)
        log.info("the head's outputs %s become the task's %s", list(saved.names), outputs)
    if labels is not None and are_numbered(labels) and not are_numbered(saved.names):
        pairs = ", ".join(
            f"{label} = {saved.names[k]}" for label, k in zip(labels, rows or (), strict=True)
        )
        log.warning("the labels of the checkpoint's head count by position: %s", pairs)
    return [], ""


def final_layer(model: nn.Module, num_labels: int) -> tuple[str, nn.Linear] | None:
    """Return name and module of the layer that gives a head's outputs, None if there is none."""
    base = f"{getattr(model, 'base_model_prefix', '')}.".lstrip(".")
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not (base and name.startswith(base))
    ]
    # a head ends with it: RoBERTa's has a dense layer before
    fitting = [layer for layer in layers if layer[1].out_features == num_labels]
    return fitting[-1] if fitting else None


@torch.no_grad()
def reorder(layer: nn.Linear, rows: Sequence[int]) -> None:
    """Give a layer its outputs in this order of its rows, in place."""
    order = torch.tensor(rows, device=layer.weight.device)
    layer.weight.copy_(layer.weight[order])
    if layer.bias is not None:
        layer.bias.copy_(layer.bias[order])


@torch.no_grad()
def renew(layer: nn.Linear, std: float, seed: int) -> None:
    """Give a layer new start values, as transformers initializes a head, in place."""
    generator = torch.Generator(layer.weight.device).manual_seed(seed)
    layer.weight.normal_(0.0, std, generator=generator)
    if layer.bias is not None:
        layer.bias.zero_()


def _normalized(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.strip().casefold()).strip("_")


def _positions(names: Sequence[str]) -> list[int] | None:
    """Return the positions that numbered names say, None if a name is another."""
    matches = [_NUMBERED.fullmatch(name) for name in names]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) < len(names) or len(set(numbers)) < len(numbers):
        return None
    return [sorted(numbers).index(number) for number in numbers]
