"""What a method is: a frozen dataclass whose fields are the options, and which builds the updates.

A new method is one file with two classes. The first derives from `Method`, `LinearMethod` or
`RankedMethod`. The second is an `rlora.adapters.base.Adapter`, one object per adapted layer.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from rlora.adapters.base import Adapter
from rlora.adapters.declared import Site
from rlora.ops.philox import RandomSource

if TYPE_CHECKING:
    from rlora.adapters.adapter_set import AdapterSet

Targets = str | Sequence[str]


@dataclass(frozen=True)
class PeftFiles:
    """A trained update in the terms of a PEFT tuner.

    Attributes:
        config: Entries of adapter_config.json that depend on the method: `peft_type` and the
            options of that type.
        tensors: Tensors of adapter_model.safetensors by PEFT's names, without those of the head.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]


class Method(ABC):
    """A way to fine-tune: its hyperparameters, and how it builds one update per layer.

    The fields of a subclass are its options. `targets` selects the adapted layers: a list of name
    suffixes or of the family's roles (q, k, v, o, fc1, fc2, ...), a regular expression, or
    "all-linear". An option that does not change what the saved tensors mean declares
    `field(metadata={"affects_weights": False})`: a saved adapter loads under another value of it.
    """

    targets: Targets | None = None  # None: no layer gets an update

    @abstractmethod
    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Build the updates of all sites, in their order; create what layers share once, here."""

    def inject(
        self, model: nn.Module, *, seed: int, head: Sequence[str], fingerprint: str
    ) -> "AdapterSet | None":
        """Put the method's own layers into the model; None leaves it to `rlora.adapters.inject`."""
        return None

    def trained_in_backbone(self, model: nn.Module) -> Iterable[str]:
        """Return names of the backbone parameters that train in place; by default none."""
        return ()

    def portable_options(self) -> dict[str, Any]:
        """Return options that hold what the method has read from files, which a run then keeps."""
        return {}

    def to_peft(self, adapters: "AdapterSet") -> PeftFiles | None:
        """Return the update as files of a PEFT tuner; None exports a LoRA made of `factors()`.

        Raises:
            ValueError: PEFT has a tuner for this method, which cannot hold this update.
        """
        return None


@dataclass(frozen=True)
class LinearMethod(Method):
    """The options shared by all methods that update linear layers: dW = s (...), s = alpha.

    Args:
        alpha: Numerator of the scale of dW, above 0.
        dropout: Probability in [0, 1) with which an input feature of the update is dropped.
        targets: Which layers are adapted, see `Method`.

    Raises:
        ValueError: an option is out of its range.
    """

    alpha: float = 16.0
    dropout: float = field(
        default=0.0, metadata={"affects_weights": False}
    )  # acts in training only
    # the names of the saved tensors say which layers were adapted
    targets: Targets = field(default=("q", "v"), metadata={"affects_weights": False})

    def __post_init__(self) -> None:
        if not (
            isinstance(self.alpha, int | float) and math.isfinite(self.alpha) and self.alpha > 0
        ):
            raise ValueError(
                f"adapter.alpha={self.alpha!r} is invalid: expected a finite number above 0"
            )
        if not (isinstance(self.dropout, int | float) and 0 <= self.dropout < 1):
            raise ValueError(
                f"adapter.dropout={self.dropout!r} is invalid: expected a number in [0, 1)"
            )

    @property
    def scale(self) -> float:
        """The scale s of dW."""
        return self.alpha


@dataclass(frozen=True)
class _Rank(Method):
    rank: int = 8


# A dataclass takes fields from its last base first: `_Rank` comes second to put rank before alpha,
# dropout and targets.
@dataclass(frozen=True)
class RankedMethod(LinearMethod, _Rank):
    """The options shared by all methods with a rank: those of `LinearMethod`, with s = alpha / r.

    Args:
        rank: r, at least 1.
        alpha: Numerator of the scale of dW, above 0.
        dropout: Probability in [0, 1) with which an input feature of the update is dropped.
        targets: Which layers are adapted, see `Method`.

    Raises:
        ValueError: an option is out of its range.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("adapter.rank", self.rank)

    @property
    def scale(self) -> float:
        """The scale s = alpha / r of dW."""
        return self.alpha / self.rank

    def check_rank(self, sites: Sequence[Site]) -> None:
        """Refuse a rank that some adapted layer cannot have.

        Raises:
            ValueError: the rank exceeds min(in, out) of a layer.
        """
        tightest = min(sites, key=lambda site: min(site.in_features, site.out_features))
        limit = min(tightest.in_features, tightest.out_features)
        if self.rank > limit:
            raise ValueError(
                f"adapter.rank={self.rank} is above min(in, out) = {limit} of {tightest.name}: "
                f"set it to 1..{limit}, or leave that layer out of adapter.targets"
            )


def require_count(key: str, value: Any) -> None:
    """Refuse a value that is not a whole number of at least 1, naming the config key.

    Raises:
        ValueError: `value` is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key}={value!r} is invalid: expected a whole number of at least 1")


def require_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a value outside the allowed names, naming the config key.

    Raises:
        ValueError: `value` is not one of `allowed`.
    """
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{key}={value!r} is unknown: choose one of {', '.join(allowed)}")
