"""Part "growth": the cost of one adapted layer by tokens, rank, number of bases and width."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import forget_gradients
from benchmarks.settings import GrowthSettings, Ranks
from benchmarks.timing import Action, Prepare, Say, compare, take_turns
from benchmarks.variants import our_methods
from rlora.adapters import Method, inject
from rlora.adapters.dispatch import ComputePath, force_path

FROZEN = "frozen"
TRANSFORMED = "rlora (transformed)"  # its cost does not depend on the rank
LAYER = ("layers.0",)


class OneLayer(nn.Module):
    """A square linear layer under a name that `inject` can target."""

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width, device=device)])
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (T, width) to (T, width)."""
        y: Tensor = self.layers[0](x)
        return y


def measure(settings: GrowthSettings, device: torch.device, say: Say) -> dict[str, Any]:
    """Time one layer while one size varies at a time.

    Returns:
        By sweep: {"fixed": the other sizes, "points": {value: {"frozen" and each method: times and
        ratios}}}.
    """
    width, tokens, ranks = settings.width, settings.tokens, settings.ranks
    sweeps: dict[str, dict[int, tuple[int, int, Mapping[str, Method]]]] = {
        "tokens": {t: (width, t, _all(ranks)) for t in settings.vary_tokens},
        "rank": {r: (width, tokens, _by_rank(r)) for r in settings.vary_rank},
        "num_bases": {
            k: (width, tokens, _nola(replace(ranks, num_bases=k))) for k in settings.vary_num_bases
        },
        "width": {w: (w, tokens, _all(ranks)) for w in settings.vary_width},
    }
    sizes = {"width": width, "tokens": tokens, "num_bases": ranks.num_bases}
    result = {}
    for sweep, points in sweeps.items():
        measured = {}
        for value, (w, t, methods) in points.items():
            say(f"{sweep} = {value}")
            measured[str(value)] = _point(w, t, methods, settings, device)
        result[sweep] = {
            "fixed": {name: size for name, size in sizes.items() if name != sweep},
            "points": measured,
        }
    return result


def _all(ranks: Ranks) -> dict[str, Method]:
    methods = our_methods(ranks, LAYER)
    return {name: methods[name] for name in methods if name != "nola"} | _nola(ranks)


def _by_rank(rank: int) -> dict[str, Method]:
    methods = our_methods(Ranks(lora=rank, rlora=rank), LAYER)
    return {name: methods[name] for name in ("lora", "rlora")} | {TRANSFORMED: methods["rlora"]}


def _nola(ranks: Ranks) -> dict[str, Method]:
    dense: Any = our_methods(ranks, LAYER)["nola"]
    return {"nola": dense, "nola (hadamard)": replace(dense, basis="hadamard")}


def _point(
    width: int,
    tokens: int,
    methods: Mapping[str, Method],
    settings: GrowthSettings,
    device: torch.device,
) -> dict[str, dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(tokens, width, generator=generator).to(device) for _ in range(2))
    base = OneLayer(width, device)
    candidates: dict[str, Prepare] = {FROZEN: _prepared(base, x, gradient)}
    for name, method in methods.items():
        layer = OneLayer(width, device)
        inject(layer, method)
        candidates[name] = _prepared(
            layer, x, gradient, ComputePath.TRANSFORMED if name == TRANSFORMED else None
        )
    return compare(
        take_turns(candidates, settings.rounds, device, at_least=settings.at_least), FROZEN
    )


def _prepared(
    layer: nn.Module, x: Tensor, gradient: Tensor, path: ComputePath | None = None
) -> Prepare:
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]

    def step() -> None:
        forget_gradients(trained)
        # A new tensor, because an adapter may cache what it has computed for the last input.
        new_x = x.detach().requires_grad_()
        with force_path(path) if path else nullcontext():
            layer(new_x).backward(gradient)

    def prepare() -> Action:
        return step

    return prepare
