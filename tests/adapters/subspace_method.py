"""A test-only method with one trained vector for the whole model.

dW_l = s (P_l theta) Q_l with theta (d,) trained and P_l (out r, d), Q_l (r, in) random: dW = 0 at
theta = 0.
"""

import math
from dataclasses import dataclass

from rlora.adapters.base import Adapter, constant_parameter
from rlora.adapters.declared import DeclaredTensors
from rlora.adapters.method import RankedMethod


@dataclass(frozen=True)
class Subspace(RankedMethod):
    size: int = 5

    def build(self, sites, source):
        theta = Theta(self.size, sites, self.rank, source.of("theta"))
        return [SubspaceLayer(site, self, theta, source.of(site.name)) for site in sites]


class Theta(DeclaredTensors):
    """The vector, and the random matrix that projects it to all factors B, one after the other."""

    def __init__(self, size, sites, rank, source):
        super().__init__()
        self.theta = constant_parameter(source, (size,), 0.0)
        rows = sum(site.out_features * rank for site in sites)
        self.regenerate("P", source.uniform("P", (rows, size), 1 / math.sqrt(size)))
        self.start = {}
        end = 0
        for site in sites:
            self.start[site.name] = end
            end += site.out_features * rank


class SubspaceLayer(Adapter):
    trains_a = False

    def __init__(self, site, method, theta, source):
        super().__init__(site, method.dropout)
        self.scale, self.rank = method.scale, method.rank
        self.regenerate("Q", source.uniform("Q", (method.rank, site.in_features), 1.0))
        self.share(theta)

    def factors(self):
        start = self.shared.start[self.site.name]
        rows = self.shared.P[start : start + self.site.out_features * self.rank]
        return (rows @ self.shared.theta).view(self.site.out_features, self.rank), self.Q
