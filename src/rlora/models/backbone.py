"""What a backbone is: a transformers model, its tokenizer, and a fingerprint of its pretrained weights."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

SAMPLES = 1024  # numbers of each tensor that enter the fingerprint


@dataclass(eq=False)
class Backbone:
    """A transformers model ready for an adapter; it knows nothing of adapters.

    Args:
        source: Where it came from, in words for the run record: hub id and revision, directory, package.
        net: The model with the task's head on it.
        tokenizer: Its tokenizer, with a padding token.
        fresh: Names of the parameters its checkpoint did not hold, or not in this shape, started at random (the head).
        fingerprint: See `fingerprint`.
    """

    source: str
    net: nn.Module
    tokenizer: Any
    fresh: list[str]
    fingerprint: str

    def head_parameters(self, modules: Sequence[str]) -> list[str]:
        """Names of the parameters that train beside an adapter: a task's modules, and whatever started at random.

        Args:
            modules: Last components of the names of the task's modules, such as "classifier"; one of them must exist,
                where there are any.

        Raises:
            ValueError: the model has none of these modules.
        """
        heads = [name for name, _ in self.net.named_modules() if name.rpartition(".")[2] in modules and _is_top(name)]
        if modules and not heads:
            raise ValueError(
                f"the backbone {self.source} has none of the modules {', '.join(modules)} that the task trains: "
                "choose a model with such a head"
            )
        names = [name for name, _ in self.net.named_parameters()]
        return [n for n in names if n in set(self.fresh) or any(n.startswith(f"{head}.") for head in heads)]


def _is_top(name: str) -> bool:
    return not any(part.isdigit() for part in name.split("."))  # inside a block is not a head


def fingerprint(net: nn.Module, without: Iterable[str]) -> str:
    """Digest of a backbone's shapes and of evenly spaced samples of its weights, 64 hex digits; the head apart.

    Samples are rounded to bfloat16, so that it is the same whether the weights are held in float32 or bfloat16.

    Args:
        net: The model before any adapter.
        without: Names of parameters to leave out: those that started at random.
    """
    left_out = set(without)
    digest = hashlib.sha256(json.dumps(getattr(net.config, "model_type", "")).encode())
    base = f"{getattr(net, 'base_model_prefix', '')}."
    for name, parameter in net.named_parameters():
        if name in left_out or not name.startswith(base.lstrip(".")):
            continue
        flat = parameter.detach().flatten()
        step = max(1, len(flat) // SAMPLES)
        sample = flat[::step][:SAMPLES].to("cpu", torch.bfloat16)
        digest.update(f"{name}{tuple(parameter.shape)};".encode())
        digest.update(sample.view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.hexdigest()
