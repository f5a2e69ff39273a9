"""The batch that every collator returns; no other module knows its keys."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

import torch
from torch import Tensor


class Batch(TypedDict):
    """A batch of B examples.

    Attributes:
        inputs: Tensors for the model's forward, by the names of its arguments.
        labels: Targets of the loss; absent from an unlabeled split.
        index: Row of each example in its split (B,), int64. Packed inputs have fewer than B rows.
        num_tokens: Number of real tokens in the batch, without padding.
        padded: Whether an attention mask of the inputs hides a token.
        num_targets: Number of targets that the loss averages over, such as the tokens of texts;
            absent where it is the number of examples.
    """

    inputs: dict[str, Tensor]
    labels: NotRequired[Tensor]
    index: Tensor
    num_tokens: int
    padded: bool
    num_targets: NotRequired[int]


def make_batch(
    inputs: Mapping[str, Tensor],
    *,
    index: Tensor,
    num_tokens: int,
    labels: Tensor | None = None,
    num_targets: int | None = None,
) -> Batch:
    """Return the batch of these inputs; call it while they are on the host.

    Args:
        inputs: Tensors for the model's forward, by argument name.
        index: Row of each example in its split (B,), int64.
        num_tokens: Number of real tokens.
        labels: Targets of the loss, or None.
        num_targets: Number of targets that the loss averages over; None: one per example.
    """
    masks = [tensor for name, tensor in inputs.items() if name.endswith("attention_mask")]
    batch = Batch(
        inputs=dict(inputs),
        index=index,
        # Python int and bool, not tensors: a training step reads them without a synchronization.
        num_tokens=num_tokens,
        padded=not all(bool(mask.all()) for mask in masks),
    )
    if labels is not None:
        batch["labels"] = labels
    if num_targets is not None:
        batch["num_targets"] = num_targets
    return batch


def num_targets(batch: Batch) -> int:
    """Return the number of targets that the loss of the batch averages over."""
    return batch.get("num_targets", len(batch["index"]))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with all tensors on the device."""
    moved = batch.copy()
    moved["inputs"] = {name: tensor.to(device) for name, tensor in batch["inputs"].items()}
    moved["index"] = batch["index"].to(device)
    if "labels" in batch:
        moved["labels"] = batch["labels"].to(device)
    return moved
