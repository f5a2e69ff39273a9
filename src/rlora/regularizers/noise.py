"""Samples from a posterior that replace the model's parameters during a pass."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlora.regularizers.posterior import GaussianPosterior, TrainedTensor, generator_on

SMALLEST_VARIANCE = 1e-30  # the derivative of sqrt is infinite at 0


@contextlib.contextmanager
def sample_per_step(posterior: GaussianPosterior, seed: int) -> Iterator[None]:
    """Let the model see theta = mu + sigma * eps, one sample for all examples."""
    values = {}
    for group, members in posterior.members.items():
        generator = generator_on(posterior.mean0(group).device, _group_seed(seed, group))
        pieces = posterior.unflatten(group, posterior.noise(group, generator))
        values[group] = [
            _added(member, piece) for member, piece in zip(members, pieces, strict=True)
        ]
    with posterior.replaced(values):
        yield


@contextlib.contextmanager
def sample_per_example(posterior: GaussianPosterior, seed: int, examples: int) -> Iterator[None]:
    """Let each example see its own sample.

    An adapter with `per_example` receives parameters of shape (examples, ...). For a linear head,
    the outputs are sampled instead of the weights. Given one vector x per example, W x + c with
    Gaussian W and c is Gaussian with variance x^2 (sigma^2)^T + sigma_c^2, independent across
    outputs. The distribution is therefore the same (Kingma et al., NeurIPS 2015, section 2.3).
    """
    adapter, head = posterior.members.get("adapter", []), posterior.members.get("head", [])
    values = {}
    if adapter:
        device = posterior.mean0("adapter").device
        noise = posterior.noise(
            "adapter", generator_on(device, _group_seed(seed, "adapter")), examples
        )
        pieces = posterior.unflatten("adapter", noise)
        values["adapter"] = [
            _added(member, piece) for member, piece in zip(adapter, pieces, strict=True)
        ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(posterior.replaced(values))
        if head:
            device = posterior.mean0("head").device
            generator = generator_on(device, _group_seed(seed, "head"))
            sigmas = posterior.unflatten("head", posterior.sigma("head"))
            for layer, by_attribute in _by_layer(head, sigmas).items():
                hook = _NoisyOutput(by_attribute, generator, examples)
                # the handle is a context manager: the hook is removed after an error too
                stack.enter_context(layer.register_forward_hook(hook))
        yield


def check_per_example(posterior: GaussianPosterior) -> None:
    """Check that the model supports one sample per example.

    Raises:
        ValueError: an adapter does not declare `per_example`, or a head parameter is not part of a
            linear layer.
    """
    for group, members in posterior.members.items():
        for member in members:
            for module, _ in member.owners:
                if group == "adapter" and not getattr(module, "per_example", False):
                    raise ValueError(
                        f"regularizer.noise=per_example is invalid for {type(module).__name__}: "
                        "expected an adapter that multiplies activations by its trainable "
                        "parameters (rlora, vera); set regularizer.noise=per_step"
                    )
                if group == "head" and not isinstance(module, nn.Linear):
                    raise ValueError(
                        f"regularizer.noise=per_example is invalid for {member.name} of "
                        f"{type(module).__name__}: expected a head of linear layers; set "
                        "regularizer.noise=per_step"
                    )


def supports_per_example(posterior: GaussianPosterior) -> bool:
    """Return whether the model supports one sample per example."""
    try:
        check_per_example(posterior)
    except ValueError:
        return False
    return True


class _NoisyOutput:
    """A forward hook that adds the noise of a linear layer's weight and bias to its output."""

    def __init__(
        self, sigmas: dict[str, Tensor], generator: torch.Generator, examples: int
    ) -> None:
        self.sigmas, self.generator, self.examples = sigmas, generator, examples

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        if x.dim() != 2 or len(x) != self.examples:
            # several vectors of one example would share W, and independent outputs be wrong
            raise RuntimeError(
                f"noise per example expects head inputs of shape ({self.examples}, features), one "
                f"vector per example, but received {tuple(x.shape)}"
            )
        variance = torch.zeros((), device=x.device)
        if "weight" in self.sigmas:
            variance = F.linear(x.float().square(), self.sigmas["weight"].square())
        if "bias" in self.sigmas:
            variance = variance + self.sigmas["bias"].square()
        eps = torch.randn(output.shape, generator=self.generator, device=output.device)
        return output + (variance.clamp_min(SMALLEST_VARIANCE).sqrt() * eps).to(output.dtype)


def _by_layer(
    members: list[TrainedTensor], sigmas: list[Tensor]
) -> dict[nn.Module, dict[str, Tensor]]:
    """Group deviations by the module that holds their parameter, then by attribute name."""
    layers: dict[nn.Module, dict[str, Tensor]] = {}
    for member, sigma in zip(members, sigmas, strict=True):
        for module, attribute in member.owners:
            layers.setdefault(module, {})[attribute] = sigma
    return layers


def _added(member: TrainedTensor, noise: Tensor) -> Tensor:
    return member.parameter + noise.to(member.parameter.dtype)


def _group_seed(seed: int, group: str) -> int:
    # each group has its own stream: a change of the adapter leaves the head's noise unchanged
    return (2 * seed + (group == "head")) % 2**63
