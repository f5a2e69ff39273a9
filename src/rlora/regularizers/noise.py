"""Draws from a posterior, put in the place of the model's parameters while a pass runs."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlora.regularizers.posterior import GaussianPosterior, Trained, generator_on

SMALLEST_VARIANCE = 1e-30  # its root has a finite derivative


@contextlib.contextmanager
def one_draw(posterior: GaussianPosterior, seed: int) -> Iterator[None]:
    """Let the model see theta = mu + sigma eps, one draw for all examples."""
    values = {}
    for group, members in posterior.members.items():
        flat = posterior.noise(
            group, generator_on(posterior.mean0(group).device, _seed(seed, group))
        )
        pieces = posterior.split(group, flat)
        values[group] = [
            _added(member, piece) for member, piece in zip(members, pieces, strict=True)
        ]
    with posterior.replaced(values):
        yield


@contextlib.contextmanager
def draw_for_each(posterior: GaussianPosterior, seed: int, examples: int) -> Iterator[None]:
    """Let every example see a draw of its own.

    Adapters that declare `per_example` get parameters (examples, ...). A linear head's outputs are drawn instead of its
    weights: for one vector x an example, W x + c with W and c normal is normal, of variance x^2 (sigma^2)^T +
    sigma_c^2 and independent from output to output, so that this is the same distribution (Kingma et al., NeurIPS
    2015, section 2.3).
    """
    adapter, head = posterior.members.get("adapter", []), posterior.members.get("head", [])
    values = {}
    if adapter:
        generator = generator_on(posterior.mean0("adapter").device, _seed(seed, "adapter"))
        pieces = posterior.split("adapter", posterior.noise("adapter", generator, examples))
        values["adapter"] = [
            _added(member, piece) for member, piece in zip(adapter, pieces, strict=True)
        ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(posterior.replaced(values))
        if head:
            generator = generator_on(posterior.mean0("head").device, _seed(seed, "head"))
            sigmas = posterior.split("head", posterior.sigma("head"))
            for layer, own in _by_layer(head, sigmas).items():
                stack.enter_context(
                    layer.register_forward_hook(_NoisyOutput(own, generator, examples))
                )
        yield


def check_draws_for_each(posterior: GaussianPosterior) -> None:
    """Refuse a model whose examples cannot each have a draw of their own.

    Raises:
        ValueError: an adapter does not declare it, or a head's parameter belongs to no linear layer.
    """
    for group, members in posterior.members.items():
        for member in members:
            for module, _ in member.places:
                if group == "adapter" and not getattr(module, "per_example", False):
                    raise ValueError(
                        f"regularizer.noise=per_example needs an adapter that multiplies activations by what it trains "
                        f"(rlora, vera), not {type(module).__name__}: use regularizer.noise=per_step"
                    )
                if group == "head" and not isinstance(module, nn.Linear):
                    raise ValueError(
                        f"regularizer.noise=per_example needs a head of linear layers, but {member.name} belongs to "
                        f"{type(module).__name__}: use regularizer.noise=per_step"
                    )


class _NoisyOutput:
    """A forward hook of a linear layer that adds the noise of its weights and bias to its output."""

    def __init__(
        self, sigmas: dict[str, Tensor], generator: torch.Generator, examples: int
    ) -> None:
        self.sigmas, self.generator, self.examples = sigmas, generator, examples

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        if x.dim() != 2 or len(x) != self.examples:
            raise RuntimeError(
                f"noise for each of {self.examples} examples needs a head that sees one vector of each, not "
                f"{tuple(x.shape)}"
            )
        variance = torch.zeros((), device=x.device)
        if "weight" in self.sigmas:
            variance = F.linear(x.float().square(), self.sigmas["weight"].square())
        if "bias" in self.sigmas:
            variance = variance + self.sigmas["bias"].square()
        eps = torch.randn(output.shape, generator=self.generator, device=output.device)
        return output + (variance.clamp_min(SMALLEST_VARIANCE).sqrt() * eps).to(output.dtype)


def _by_layer(members: list[Trained], sigmas: list[Tensor]) -> dict[nn.Module, dict[str, Tensor]]:
    found: dict[nn.Module, dict[str, Tensor]] = {}
    for member, sigma in zip(members, sigmas, strict=True):
        for module, attribute in member.places:
            found.setdefault(module, {})[attribute] = sigma
    return found


def _added(member: Trained, noise: Tensor) -> Tensor:
    return member.parameter + noise.to(member.parameter.dtype)


def _seed(seed: int, group: str) -> int:
    return (2 * seed + (group == "head")) % 2**63  # groups draw from streams of their own
