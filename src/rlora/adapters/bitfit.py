"""BitFit: Ben Zaken, Goldberg and Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning", ACL 2022 (short)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from rlora.adapters.base import Adapter
from rlora.adapters.declared import Site
from rlora.adapters.method import Method
from rlora.ops.philox import RandomSource


@dataclass(frozen=True)
class BitFit(Method):
    """Train every bias of the backbone in place, those of the normalization layers included."""

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """No updates."""
        return []

    def trained_in_backbone(self, model: nn.Module) -> Iterable[str]:
        """The parameters that modules hold as their `bias`.

        Raises:
            ValueError: the backbone has no biases (as LLaMA).
        """
        biases = {id(getattr(module, "bias", None)) for module in model.modules()} - {id(None)}
        names = [
            name for name, parameter in model.named_parameters() if id(parameter) in biases
        ]  # tied ones once
        if not names:
            raise ValueError(
                "adapter=bitfit trains biases, and this backbone has none: choose another adapter"
            )
        return names
