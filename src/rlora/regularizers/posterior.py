"""Diagonal Gaussian posterior and prior over all trainable parameters."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SMALLEST_SIGMA = 1e-12  # below this, float32 loses sigma^2 and the noise


@dataclass(frozen=True)
class TrainedTensor:
    """One trainable tensor and every attribute that refers to it.

    Attributes:
        name: Stable name.
        parameter: The tensor, which is the posterior mean.
        owners: Modules that hold it, each with the attribute name. Tied weights have several.
    """

    name: str
    parameter: nn.Parameter
    owners: tuple[tuple[nn.Module, str], ...]


class GaussianPosterior(nn.Module):
    """Posterior Q = N(mu, diag(sigma^2)) and prior P = N(mu0, sigma0^2 I), sigma = exp(rho).

        KL(Q || P) = 1/2 sum_i [ln(sigma0^2 / sigma_i^2)
                                + ((mu_i - mu0_i)^2 + sigma_i^2) / sigma0^2 - 1]

    mu is the model's trainable parameters and starts at mu0. sigma starts at sigma0, one value per
    group. This module adds rho, one value per trainable number, as its only parameter. mu0 and
    sigma0 are buffers. Each group is a flat float32 vector in the order of the given names.

    Args:
        model: The module that holds the parameters.
        parameters: Group to name to parameter.
        sigma0: Prior standard deviation of each group.

    Raises:
        ValueError: a standard deviation is not a finite number of at least `SMALLEST_SIGMA`.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, Mapping[str, nn.Parameter]],
        sigma0: Mapping[str, float],
    ) -> None:
        super().__init__()
        owners = _owners(model)
        self.members = {
            group: [
                TrainedTensor(name, parameter, owners[id(parameter)])
                for name, parameter in named.items()
            ]
            for group, named in parameters.items()
            if named
        }
        self.rho = nn.ParameterDict()
        for group, members in self.members.items():
            start = torch.cat([member.parameter.detach().float().flatten() for member in members])
            log_sigma0 = math.log(check_sigma(group, sigma0[group]))
            self.rho[group] = nn.Parameter(torch.full_like(start, log_sigma0))
            self.register_buffer(f"mean0_{group}", start)
            scalar = torch.tensor(float(sigma0[group]), device=start.device)
            self.register_buffer(f"sigma0_{group}", scalar)

    def mean(self, group: str) -> Tensor:
        """Return the means mu of a group, (N,)."""
        return torch.cat([member.parameter.float().flatten() for member in self.members[group]])

    def sigma(self, group: str) -> Tensor:
        """Return the standard deviations sigma of a group, (N,)."""
        return self.rho[group].exp()

    def mean0(self, group: str) -> Tensor:
        """Return the prior means mu0 of a group, (N,)."""
        return self.get_buffer(f"mean0_{group}")

    def sigma0(self, group: str) -> Tensor:
        """Return the prior standard deviation sigma0 of a group, a scalar."""
        return self.get_buffer(f"sigma0_{group}")

    def kl(self) -> Tensor:
        """Return KL(Q || P) in nats, a float64 scalar."""
        terms = [self.group_kl(group, self.sigma0(group)) for group in self.members]
        return torch.stack(terms).sum()

    def group_kl(self, group: str, sigma0: Tensor) -> Tensor:
        """Return one group's share of KL(Q || P) in nats under the given prior deviation."""
        # float64: the terms are many, close to 0, and differences of almost equal numbers
        rho, sigma0 = self.rho[group].double(), sigma0.double()
        shift = (self.mean(group) - self.mean0(group)).double()
        log_ratio = 2 * (rho - sigma0.log())  # ln(sigma^2 / sigma0^2)
        return 0.5 * ((shift / sigma0).square() + log_ratio.exp() - log_ratio - 1).sum()

    def noise(self, group: str, generator: torch.Generator, examples: int | None = None) -> Tensor:
        """Sample sigma * eps with eps ~ N(0, I): shape (N,), or (examples, N) if given."""
        sigma = self.sigma(group)
        shape = sigma.shape if examples is None else (examples, *sigma.shape)
        # float32 whatever the model's dtype, so that mixed precision does not change the sample
        eps = torch.randn(shape, generator=generator, device=sigma.device, dtype=torch.float32)
        return sigma * eps

    def unflatten(self, group: str, flat: Tensor) -> list[Tensor]:
        """Split (..., N) into tensors (..., *shape), one for each member of the group."""
        members = self.members[group]
        pieces = flat.split([member.parameter.numel() for member in members], dim=-1)
        lead = flat.shape[:-1]
        return [
            piece.view(*lead, *member.parameter.shape)
            for piece, member in zip(pieces, members, strict=True)
        ]

    @contextlib.contextmanager
    def replaced(self, values: Mapping[str, list[Tensor]]) -> Iterator[None]:
        """Replace the model's parameters by other tensors; gradients flow through these.

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
                _assign(member, value)
            yield
        finally:  # also after an error: a later step must train the parameters, not a sample
            for member, _ in pairs:
                _assign(member, member.parameter)

    @torch.no_grad()
    def recenter(self) -> None:
        """Set mu0 to the current means and sigma back to sigma0, so that KL is 0."""
        for group in self.members:
            self.mean0(group).copy_(self.mean(group))
            self.rho[group].copy_(self.sigma0(group).log().expand_as(self.rho[group]))

    @contextlib.contextmanager
    def at_prior_mean(self) -> Iterator[None]:
        """Replace the model's parameters by the prior means mu0."""
        means = {group: self.unflatten(group, self.mean0(group)) for group in self.members}
        with self.replaced(means):
            yield


def generator_on(device: torch.device, seed: int) -> torch.Generator:
    """Return a separate seeded generator, so that sampling leaves the global ones untouched."""
    return torch.Generator(device).manual_seed(seed)


def check_sigma(group: str, sigma: float) -> float:
    """Return a prior standard deviation if float32 can represent its effect.

    Raises:
        ValueError: it is below `SMALLEST_SIGMA`, or not a finite number.
    """
    if not (isinstance(sigma, int | float) and math.isfinite(sigma) and sigma >= SMALLEST_SIGMA):
        raise ValueError(
            f"regularizer.sigma_{group}={sigma!r} is invalid: expected a finite number of at least "
            f"{SMALLEST_SIGMA:g}; set regularizer=none to train without noise"
        )
    return float(sigma)


def _owners(model: nn.Module) -> dict[int, tuple[tuple[nn.Module, str], ...]]:
    """Return, by id of the parameter, all modules and attribute names that hold it."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        # not named_parameters(), which lists a tied parameter once
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((module, attribute))
    return {key: tuple(pairs) for key, pairs in owners.items()}


def _assign(member: TrainedTensor, value: Tensor) -> None:
    for module, attribute in member.owners:
        # a sample is a plain tensor with a graph, which setattr refuses for a registered parameter
        module._parameters[attribute] = value  # type: ignore[assignment]
