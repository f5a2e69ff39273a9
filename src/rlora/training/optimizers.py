"""Optimizers and learning-rate schedules as configs name them."""

from collections.abc import Mapping, Sequence

import torch
import transformers
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def adamw(
    parameters: Mapping[str, Mapping[str, nn.Parameter]],
    *,
    lr: float,
    head_lr: float,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW with one learning rate for the adapter and one for the head.

    Weight decay falls on adapter and head weights, not on biases and normalization layers.

    Args:
        parameters: Group ("adapter", "head") to name to trained parameter.
        lr: Learning rate of the adapter.
        head_lr: Learning rate of the head.
        weight_decay: Decoupled decay a step, as a fraction of lr.
        betas: Averaging factors of the moments.
        eps: Added to the root of the second moment.

    Raises:
        ValueError: a number is out of its range.
    """
    for key, value in (("lr", lr), ("head_lr", head_lr), ("weight_decay", weight_decay)):
        if not value >= 0:
            raise ValueError(f"optimizer.{key}={value} must be a number of at least 0")
    groups = []
    for group, rate in (("adapter", lr), ("head", head_lr)):
        members = parameters[group]
        spared = {name for name in members if name.endswith("bias") or "norm" in name.lower()}
        for kind, names, decay in (
            (group, [n for n in members if n not in spared], weight_decay),
            (f"{group}_no_decay", sorted(spared), 0.0),
        ):
            if names:
                groups.append(
                    {
                        "params": [members[n] for n in names],
                        "lr": rate,
                        "weight_decay": decay,
                        "name": kind,
                    }
                )
    return torch.optim.AdamW(groups, betas=(betas[0], betas[1]), eps=eps)


def schedule(
    optimizer: torch.optim.Optimizer,
    *,
    total_steps: int,
    shape: str = "linear",
    warmup: float = 0.06,
) -> LRScheduler:
    """Warm the learning rates up over a share of all steps, then let them fall.

    Args:
        optimizer: Its groups' rates are the peaks.
        total_steps: Optimizer steps of the whole run.
        shape: "linear" or "cosine" to zero, or "constant".
        warmup: Share of the steps, in [0, 1].

    Raises:
        ValueError: unknown shape, or a share outside [0, 1].
    """
    if shape not in SCHEDULES:
        raise ValueError(
            f"scheduler.shape={shape!r} is unknown: choose one of {', '.join(SCHEDULES)}"
        )
    if not 0 <= warmup <= 1:
        raise ValueError(
            f"scheduler.warmup={warmup} must lie in [0, 1]: it is a share of all steps"
        )
    return transformers.get_scheduler(
        SCHEDULES[shape],
        optimizer,
        num_warmup_steps=round(warmup * total_steps),
        num_training_steps=total_steps,
    )
