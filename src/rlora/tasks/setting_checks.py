"""Checks of a supervised task's settings when it is built: labels, score range and metrics."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def checked_labels(labels: Any) -> list[str] | None:
    """Return label names as strings; None is a regression task.

    Raises:
        ValueError: There are fewer than two, two are equal, or one is empty or no string.
    """
    if labels is None:
        return None
    # Whole numbers lose their quotes on the command line. YAML reads yes and no as true and false.
    names = [str(name) if type(name) is int else name for name in list(labels)]
    valid = all(isinstance(name, str) and name.strip() for name in names)
    # a mapping would give its keys, which may be ids, in any order
    no_list = isinstance(labels, str | Mapping)
    if not valid or len(names) < 2 or len(set(names)) < len(names) or no_list:
        raise ValueError(
            f"task.labels={labels if no_list else names} is invalid: expected a list of two or "
            "more different names; set them in id order, each in quotes."
        )
    return names


def check_score_range(score_range: Any) -> None:
    """Raise unless a score range is None or two increasing numbers."""
    if score_range is None:
        return
    limits = list(score_range)
    numbers = all(type(limit) in (int, float) and math.isfinite(limit) for limit in limits)
    if not numbers or len(limits) != 2 or limits[0] >= limits[1]:
        raise ValueError(
            f"task.score_range={limits} is invalid: expected the smallest and the largest score; "
            "set it to two increasing numbers such as [0, 5]."
        )


def check_monitor(name: str, metrics: Mapping[str, Metric], monitor: str, mode: str) -> None:
    """Raise unless a monitor is a metric that improves in the direction `mode`.

    Args:
        name: Task name, for messages.
        metrics: Metrics by name.
        monitor: Metric that selects checkpoints.
        mode: `max` or `min`.
    """
    if mode not in ("max", "min"):
        raise ValueError(f"task.mode={mode} is unknown; set task.mode to max or min.")
    if monitor not in metrics:
        raise ValueError(f"task.monitor={monitor} is no metric of {name}; use {sorted(metrics)}.")
    upward = metrics[monitor].higher_is_better
    if upward is not None and upward != (mode == "max"):
        right = "max" if upward else "min"
        raise ValueError(
            f"task.mode={mode} is invalid: expected {right}, the direction in which "
            f"task.monitor={monitor} improves; set task.mode={right}."
        )


def check_metrics(
    metrics: Mapping[str, Metric], labels: Sequence[str] | None, score_range: Sequence[float] | None
) -> None:
    """Raise where a metric cannot score the task's predictions, by scoring perfect ones.

    Otherwise it fails after the first epoch.

    Args:
        metrics: Metrics by name.
        labels: Label names; None: the predictions are scores.
        score_range: Smallest and largest score.
    """
    if labels is None:
        low, high = (0.0, 1.0) if score_range is None else score_range
        perfect = torch.linspace(float(low), float(high), 8)
        expected = "one number from scores; set _target_ to a torchmetrics.regression metric"
    else:
        perfect = torch.arange(len(labels)).repeat(2)
        family = "Binary" if len(labels) == 2 else "Multiclass"
        classes = "" if len(labels) == 2 else f" with num_classes={len(labels)}"
        expected = (
            f"one number from the ids of {len(labels)} task.labels; set _target_ to a "
            f"torchmetrics.classification.{family}... metric{classes}"
        )
    for name, metric in metrics.items():
        number = getattr(metric, "num_classes", None)
        wrong_number = labels is not None and number not in (None, len(labels))
        # some of them take ids for scores, or scores for ids
        other = "classification" if labels is None else "regression"
        of_other_kind = type(metric).__module__.startswith(f"torchmetrics.{other}.")
        if wrong_number or of_other_kind or not _scores(metric, perfect):
            described = type(metric).__name__ + (f", num_classes={number}" if number else "")
            raise ValueError(f"task.metrics.{name}={described} is invalid: expected {expected}.")


def _scores(metric: Metric, perfect: Tensor) -> bool:
    """Return whether a metric gives one number for predictions that equal the labels."""
    trial = metric.clone()
    if getattr(trial, "validate_args", True) is False:
        trial.validate_args = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trial.update(perfect, perfect)
            value: Any = trial.compute()
        except (ValueError, RuntimeError, TypeError, IndexError, AssertionError):
            return False
    return isinstance(value, Tensor) and value.numel() == 1
