"""Models with random weights built from transformers configs, and batches of random tokens."""

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import transformers
from torch import Tensor, nn

FIRST_TOKEN = 5  # smaller ids may be special tokens


def random_model(
    config: Mapping[str, Any],
    *,
    kind: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> nn.Module:
    """Build a model directly on its device and in its dtype, so that memory never holds two copies.

    Args:
        config: Fields of its transformers config, including `model_type`.
        kind: "classification" or "language".
        device: Device of the weights.
        dtype: Dtype of the weights.
        seed: Seed of the weights.
    """
    fields = dict(config)
    settings = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    if kind == "language":
        settings.use_cache = False
    loader = {
        "classification": transformers.AutoModelForSequenceClassification,
        "language": transformers.AutoModelForCausalLM,
    }[kind]
    torch.manual_seed(seed)
    with torch.device(device):
        model = loader.from_config(settings, dtype=dtype, attn_implementation="sdpa")
    return model.train()


def same_weights(model: nn.Module) -> nn.Module:
    """Copy a model's modules and share its parameters and buffers, which takes no memory."""
    return copy.deepcopy(
        model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    )


def random_batch(
    model: nn.Module, kind: str, batch: int, length: int, device: torch.device
) -> dict[str, Tensor]:
    """Return the tokens and labels of a training step."""
    generator = torch.Generator().manual_seed(0)
    config: Any = model.config
    tokens = torch.randint(FIRST_TOKEN, config.vocab_size, (batch, length), generator=generator).to(
        device
    )
    if kind == "language":
        return {"input_ids": tokens, "labels": tokens}
    return {"input_ids": tokens, "labels": torch.arange(batch, device=device) % config.num_labels}


def loss_of(
    model: nn.Module, batch: Mapping[str, Tensor], autocast: torch.dtype | None = None
) -> Callable[[], Tensor]:
    """Return a function that clears the gradients, runs forward and returns the loss."""
    device = next(model.parameters()).device
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def forward() -> Tensor:
        forget_gradients(trained)
        with torch.autocast(device.type, autocast) if autocast else nullcontext():
            loss: Tensor = model(**batch).loss
        return loss

    return forward


def forget_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Free the gradients of the previous step."""
    for parameter in parameters:
        parameter.grad = None


def step_of(forward: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a training step without an optimizer: forward and backward."""

    def step() -> None:
        forward().backward()

    return step


def count_trained(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
