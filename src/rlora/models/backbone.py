"""What a backbone is: a transformers model, its tokenizer, and a fingerprint of its pretrained weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(eq=False)
class Backbone:
    """A transformers model ready for an adapter; it knows nothing of adapters.

    Args:
        source: Where it came from, in words for the run record: hub id and revision, directory, package.
        model: The model with the task's head on it.
        processor: Its tokenizer, with a padding token.
        fresh: Names of the parameters its checkpoint did not hold, or not in this shape, started at random (the head).
        fingerprint: See `rlora.ops.fingerprint`.
    """

    source: str
    model: nn.Module
    processor: Any
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
        heads = [
            name
            for name, _ in self.model.named_modules()
            if name.rpartition(".")[2] in modules and _is_top(name)
        ]
        if modules and not heads:
            raise ValueError(
                f"the backbone {self.source} has none of the modules {', '.join(modules)} that the task trains: "
                "choose a model with such a head"
            )
        names = [name for name, _ in self.model.named_parameters()]
        return [
            n
            for n in names
            if n in set(self.fresh) or any(n.startswith(f"{head}.") for head in heads)
        ]


def _is_top(name: str) -> bool:
    return not any(part.isdigit() for part in name.split("."))  # inside a block is not a head
