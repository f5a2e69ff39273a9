"""The backbone: a transformers model, its processor, and a fingerprint of its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(eq=False)
class Backbone:
    """A transformers model without an adapter.

    Args:
        source: Where it comes from, for the run record: hub id and revision, folder or package.
        model: The model with the task's head.
        processor: Its tokenizer (with a padding token), image processor, or both.
        fresh: Names of newly initialized parameters: those that the checkpoint lacks or has in
            another shape, usually the head.
        fingerprint: See `rlora.ops.fingerprint`.
        hub: Hub id of the same weights, if they come from elsewhere.
        unused_head: Why the head in the checkpoint is not used; "" where it is, or there is none.
    """

    source: str
    model: nn.Module
    processor: Any
    fresh: list[str]
    fingerprint: str
    hub: str | None = None
    unused_head: str = ""

    def head_parameters(self, modules: Sequence[str]) -> list[str]:
        """Return the names of the parameters that train with an adapter.

        These are the parameters of the task's modules, and the `fresh` ones.

        Args:
            modules: Last components of the names of the task's modules, such as "classifier". The
                model must have one of them, unless there are none.

        Raises:
            ValueError: the model has none of these modules.
        """
        heads = [
            name
            for name, _ in self.model.named_modules()
            if name.rpartition(".")[2] in modules and not _is_in_block(name)
        ]
        if modules and not heads:
            raise ValueError(
                f"the backbone {self.source} has none of the modules {', '.join(modules)} that the "
                "task trains: choose a model with such a head"
            )
        fresh, prefixes = set(self.fresh), tuple(f"{head}." for head in heads)
        names = [name for name, _ in self.model.named_parameters()]
        return [name for name in names if name in fresh or name.startswith(prefixes)]


def _is_in_block(name: str) -> bool:
    # Blocks are numbered. A module inside one is no head, whatever its name.
    return any(part.isdigit() for part in name.split("."))
