"""Where an update goes, and where its tensors come from.

    origin           declared by     in the file   in the digest   after loading
    trained          nn.Parameter    yes           no              from the file
    regenerated      regenerate()    no            yes             from the seed; the digest checks
    derived from W   derive()        yes           no              from the file

A derived tensor is saved because another machine may derive another one: an SVD has free signs and,
among equal singular values, a free order.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Site:
    """Where an update goes: one linear layer, or one row block of a fused projection.

    Sites are compared and hashed by name and shape.

    Args:
        name: Stable name, independent of the head around the backbone; it also names the layer's
            random draws.
        out_features: Rows of dW.
        in_features: Columns of dW.
        read_weight: Reads W from the layer on each call; None for a site without a layer.
    """

    name: str
    out_features: int
    in_features: int
    read_weight: Callable[[], Tensor | None] | None = field(default=None, compare=False, repr=False)

    def weight(self) -> Tensor | None:
        """Return the original frozen W (out, in); None on the meta device.

        It is dequantized and in float32 or better. The result is W itself where no conversion is
        needed: do not change it in place. Each call reads the layer again, so that no copy stays
        alive between calls. It is the original W while the layer is merged, too.
        """
        return None if self.read_weight is None else self.read_weight()


class DeclaredTensors(nn.Module):
    """A module that declares where its frozen tensors come from; its parameters are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.regenerated: list[str] = []
        self.derived: list[str] = []

    def regenerate(self, name: str, tensor: Tensor) -> None:
        """Register a tensor regenerated from the seed: not saved, part of the digest."""
        self.register_buffer(name, tensor, persistent=False)
        self.regenerated.append(name)

    def derive(self, name: str, tensor: Tensor) -> None:
        """Register a tensor computed from W: saved, not part of the digest.

        Raises:
            TypeError: the tensor does not hold floating-point numbers, the only ones that adapter
                files hold.
        """
        if not tensor.is_floating_point():
            raise TypeError(
                f"the derived tensor {name} has dtype {tensor.dtype}: use a float dtype"
            )
        self.register_buffer(name, tensor, persistent=True)
        self.derived.append(name)


def declared_modules(
    roots: Iterable[tuple[str, nn.Module]],
) -> Iterator[tuple[str, str, DeclaredTensors]]:
    """Yield (root's name, path below it, module) of every declaring module, each once."""
    seen: set[int] = set()
    for root_name, root in roots:
        for path, module in root.named_modules():
            if isinstance(module, DeclaredTensors) and id(module) not in seen:
                seen.add(id(module))
                yield root_name, path, module


def derived_tensors(roots: Iterable[tuple[str, nn.Module]]) -> dict[str, Tensor]:
    """Return the derived tensors below some modules, by dotted name; shared ones once."""
    return {
        ".".join(part for part in (root_name, path, name) if part): module.get_buffer(name)
        for root_name, path, module in declared_modules(roots)
        for name in module.derived
    }
