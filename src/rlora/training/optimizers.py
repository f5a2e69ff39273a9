"""Optimizers and learning-rate schedules."""

from collections.abc import Mapping, Sequence

import torch
import transformers
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

LARGEST = torch.finfo(torch.float32).max
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
    """Return AdamW with one learning rate for the adapter and one for the head.

    Weight decay applies to adapter and head weights, not to biases and normalization layers.

    Args:
        parameters: Group ("adapter", "head") to name to trainable parameter.
        lr: Learning rate of the adapter.
        head_lr: Learning rate of the head.
        weight_decay: Decoupled decay per step, as a fraction of lr.
        betas: Decay rates of the moment estimates.
        eps: Added to the root of the second moment estimate.

    Raises:
        ValueError: A value is negative, too large for a step in float32, or not a number.
    """
    # the first step divides the rate by this, in float32
    largest = LARGEST * (1 - betas[0])
    for key, value in (("lr", lr), ("head_lr", head_lr), ("weight_decay", weight_decay)):
        if not 0 <= value < largest:
            raise ValueError(
                f"optimizer.{key}={value} is invalid: expected a number of at least 0 and below "
                f"{largest:.3g}, the range of float32"
            )
    groups = []
    for group, rate in (("adapter", lr), ("head", head_lr)):
        members = parameters[group]
        no_decay = {name for name in members if name.endswith("bias") or "norm" in name.lower()}
        for label, names, decay in (
            (group, [n for n in members if n not in no_decay], weight_decay),
            (f"{group}_no_decay", sorted(no_decay), 0.0),
        ):
            if names:
                groups.append(
                    {
                        "params": [members[n] for n in names],
                        "lr": rate,
                        "weight_decay": decay,
                        "name": label,
                    }
                )
    return torch.optim.AdamW(groups, betas=(betas[0], betas[1]), eps=eps)


def follow_schedule(scheduler: LRScheduler) -> None:
    """Set the learning rates to those of the schedule at its present step.

    A checkpoint holds the step and the rates, but not the number of all steps. A run resumed with
    another `trainer.max_epochs` has another schedule, which it follows from its first step on. All
    other runs have these rates already, to the bit.
    """
    if isinstance(scheduler, LambdaLR):
        pairs = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        rates = [base * factor(scheduler.last_epoch) for base, factor in pairs]
        for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates


def schedule(
    optimizer: torch.optim.Optimizer,
    *,
    total_steps: int,
    shape: str = "linear",
    warmup: float = 0.06,
) -> LRScheduler:
    """Return a schedule that warms up linearly over a share of all steps, then decays.

    Args:
        optimizer: The learning rates of its groups are the peaks.
        total_steps: Optimizer steps of the whole run.
        shape: "linear" or "cosine" to zero, or "constant".
        warmup: Share of the steps to warm up in, in [0, 1].

    Raises:
        ValueError: The shape is unknown, or the share outside [0, 1].
    """
    if shape not in SCHEDULES:
        raise ValueError(
            f"scheduler.shape={shape!r} is invalid: expected one of {', '.join(SCHEDULES)}"
        )
    if not 0 <= warmup <= 1:
        raise ValueError(
            f"scheduler.warmup={warmup} is invalid: expected a share of all steps in [0, 1]"
        )
    return transformers.get_scheduler(
        SCHEDULES[shape],
        optimizer,
        num_warmup_steps=round(warmup * total_steps),
        num_training_steps=total_steps,
    )
