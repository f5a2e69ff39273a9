"""Head-only training (linear probing), the lower baseline of the comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlora.adapters.base import Adapter
from rlora.adapters.declared import Site
from rlora.adapters.method import Method
from rlora.ops.philox import RandomSource


@dataclass(frozen=True)
class Head(Method):
    """Train the task's head only; the backbone does not change."""

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Return no updates."""
        return []
