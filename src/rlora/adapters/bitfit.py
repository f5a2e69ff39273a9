"""BitFit: Ben Zaken, Goldberg and Ravfogel, "BitFit", ACL 2022 (short papers).

Full title: "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", arXiv 2106.10199.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from rlora.adapters.base import Adapter
from rlora.adapters.declared import Site
from rlora.adapters.method import Method
from rlora.ops.philox import RandomSource


@dataclass(frozen=True)
class BitFit(Method):
    """Train every bias of the backbone in place, those of normalization layers included."""

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Return no updates."""
        return []

    def trained_in_backbone(self, model: nn.Module) -> Iterable[str]:
        """Return the names of the parameters that modules hold as their `bias`.

        Raises:
            ValueError: the backbone has no biases, as LLaMA.
        """
        biases = {id(getattr(module, "bias", None)) for module in model.modules()} - {id(None)}
        # named_parameters gives a bias that two modules share once
        names = [name for name, parameter in model.named_parameters() if id(parameter) in biases]
        if not names:
            raise ValueError(
                "adapter=bitfit trains biases, but this backbone has none: choose another adapter"
            )
        return names
