"""Diagonal Gaussians over everything that trains: a posterior around the model's own parameters, and a prior."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SMALLEST_SIGMA = 1e-12  # below, its square and the noise would be lost in float32


@dataclass(frozen=True)
class Trained:
    """One trained tensor and the places it is read from.

    Attributes:
        name: Its stable name.
        parameter: The tensor itself, the posterior's mean.
        places: Modules and the attributes under which they hold it.
    """

    name: str
    parameter: nn.Parameter
    places: tuple[tuple[nn.Module, str], ...]


class GaussianPosterior(nn.Module):
    """Q = N(mu, diag(sigma^2)) and P = N(mu0, diag(sigma0^2)), sigma = exp(rho), one rho for every trained number.

        KL(Q || P) = 1/2 sum [ln(sigma0^2 / sigma^2) + ((mu - mu0)^2 + sigma^2) / sigma0^2 - 1]

    mu are the model's trained parameters, which start at mu0; sigma starts at sigma0, one number a group. Trained
    here is rho; mu0 and sigma0 are fixed. All are kept flat, group by group, in the order of the names given.

    Args:
        model: The module the parameters live in.
        parameters: Group to name to parameter.
        sigma0: The prior's standard deviation of each group.

    Raises:
        ValueError: a standard deviation is no positive number, or so small that float32 loses it.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, Mapping[str, nn.Parameter]],
        sigma0: Mapping[str, float],
    ) -> None:
        super().__init__()
        places = _places(model)
        self.members = {
            group: [
                Trained(name, parameter, places[id(parameter)]) for name, parameter in named.items()
            ]
            for group, named in parameters.items()
            if named
        }
        self.rho = nn.ParameterDict()
        for group, members in self.members.items():
            start = torch.cat([member.parameter.detach().float().flatten() for member in members])
            self.rho[group] = nn.Parameter(
                torch.full_like(start, math.log(check_sigma(group, sigma0[group])))
            )
            self.register_buffer(f"mean0_{group}", start)
            self.register_buffer(
                f"sigma0_{group}", torch.tensor(float(sigma0[group]), device=start.device)
            )

    def mean(self, group: str) -> Tensor:
        """Means mu of a group, flat."""
        return torch.cat([member.parameter.float().flatten() for member in self.members[group]])

    def sigma(self, group: str) -> Tensor:
        """Standard deviations sigma of a group, flat."""
        return self.rho[group].exp()

    def mean0(self, group: str) -> Tensor:
        """Prior means mu0 of a group, flat."""
        return self.get_buffer(f"mean0_{group}")

    def sigma0(self, group: str) -> Tensor:
        """Prior standard deviation sigma0 of a group, a scalar."""
        return self.get_buffer(f"sigma0_{group}")

    def kl(self) -> Tensor:
        """KL(Q || P) in nats, a scalar in float64."""
        return torch.stack(
            [self.group_kl(group, self.sigma0(group)) for group in self.members]
        ).sum()

    def group_kl(self, group: str, sigma0: Tensor) -> Tensor:
        """One group's share of KL(Q || P) for a prior of this standard deviation."""
        rho, sigma0 = self.rho[group].double(), sigma0.double()
        shift = (self.mean(group) - self.mean0(group)).double()
        variance = (2 * (rho - sigma0.log())).exp()  # sigma^2 / sigma0^2
        return 0.5 * ((shift / sigma0).square() + variance - 2 * (rho - sigma0.log()) - 1).sum()

    def noise(self, group: str, generator: torch.Generator, examples: int | None = None) -> Tensor:
        """Draw sigma eps, (N,) or one for every example, (examples, N)."""
        sigma = self.sigma(group)
        shape = sigma.shape if examples is None else (examples, *sigma.shape)
        return sigma * torch.randn(
            shape, generator=generator, device=sigma.device, dtype=torch.float32
        )

    def split(self, group: str, flat: Tensor) -> list[Tensor]:
        """(..., N) as tensors of the members' shapes, leading dimensions kept."""
        members = self.members[group]
        pieces = flat.split([member.parameter.numel() for member in members], dim=-1)
        lead = flat.shape[:-1]
        return [
            piece.view(*lead, *member.parameter.shape)
            for piece, member in zip(pieces, members, strict=True)
        ]

    @contextlib.contextmanager
    def replaced(self, values: Mapping[str, list[Tensor]]) -> Iterator[None]:
        """Let the model see other tensors in the place of its parameters; gradients flow through them.

        Args:
            values: Group to tensors, one for each of its members.
        """
        pairs = [
            pair
            for group, tensors in values.items()
            for pair in zip(self.members[group], tensors, strict=True)
        ]
        try:
            for member, value in pairs:
                _put(member, value)
            yield
        finally:
            for member, _ in pairs:
                _put(member, member.parameter)

    @torch.no_grad()
    def recenter(self) -> None:
        """Make the present means the prior's, as after loading a prior that was learned; sigma starts anew."""
        for group in self.members:
            self.mean0(group).copy_(self.mean(group))
            self.rho[group].copy_(self.sigma0(group).log().expand_as(self.rho[group]))

    @contextlib.contextmanager
    def at_prior_mean(self) -> Iterator[None]:
        """Let the model see mu0."""
        with self.replaced({group: self.split(group, self.mean0(group)) for group in self.members}):
            yield


def generator_on(device: torch.device, seed: int) -> torch.Generator:
    """A generator of its own, so that the global ones are left alone."""
    return torch.Generator(device).manual_seed(seed)


def check_sigma(group: str, sigma: float) -> float:
    """Refuse a prior's standard deviation that float32 cannot tell from 0.

    Raises:
        ValueError: it is below `SMALLEST_SIGMA`, or no finite number.
    """
    if not (isinstance(sigma, int | float) and math.isfinite(sigma) and sigma >= SMALLEST_SIGMA):
        raise ValueError(
            f"regularizer.sigma_{group}={sigma!r} must be a finite number of at least {SMALLEST_SIGMA:g}: smaller "
            "noise underflows; use regularizer=none to train without"
        )
    return float(sigma)


def _places(model: nn.Module) -> dict[int, tuple[tuple[nn.Module, str], ...]]:
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(id(parameter), []).append((module, attribute))
    return {key: tuple(places) for key, places in found.items()}


def _put(member: Trained, value: Tensor) -> None:
    for module, attribute in member.places:
        # a plain tensor, which setattr would refuse in the place of a parameter
        module._parameters[attribute] = value  # type: ignore[assignment]
