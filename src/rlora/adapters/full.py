"""Full fine-tuning, the upper baseline of the comparison."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from rlora.adapters.base import Adapter
from rlora.adapters.declared import Site
from rlora.adapters.method import Method
from rlora.ops.philox import RandomSource


@dataclass(frozen=True)
class Full(Method):
    """Train every parameter of the backbone in place; no layer gets an update."""

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Return no updates."""
        return []

    def trained_in_backbone(self, model: nn.Module) -> Iterable[str]:
        """Return the names of all parameters."""
        return [name for name, _ in model.named_parameters()]
