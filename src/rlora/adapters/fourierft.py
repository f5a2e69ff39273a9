"""FourierFT: Gao et al., "Parameter-Efficient Fine-Tuning with Discrete Fourier Transform".

ICML 2024, arXiv 2405.03003.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlora.adapters.base import Adapter, constant_parameter
from rlora.adapters.declared import DeclaredTensors, Site
from rlora.adapters.method import LinearMethod, require_count
from rlora.ops.philox import RandomSource


@dataclass(frozen=True)
class FourierFT(LinearMethod):
    """Train a few entries of the update's spectrum (equations 2 to 4).

        dW = s Re(IDFT2(F)),   s = alpha,   that is
        dW_pq = s / (out in) sum_{l=1..n} c_l cos(2 pi (p j_l / out + q k_l / in))

    F (out, in) is 0 except for n entries (j_l, k_l) with the values c_l. The positions are sampled
    without replacement from the seed and shared by all layers of a shape. Trained: c (n,), n
    parameters per layer. c starts at 0 (the paper: standard normal), so that dW = 0 exactly.

    Args:
        alpha: The scale s (the paper and PEFT: 150 for RoBERTa).
        dropout: On the update's input.
        targets: Which layers are adapted.
        num_frequencies: n, in 1..out in.
    """

    alpha: float = 150.0
    num_frequencies: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("adapter.num_frequencies", self.num_frequencies)

    def build(self, sites: Sequence[Site], source: RandomSource) -> list[Adapter]:
        """Build one spectrum per shape, and one vector of coefficients per site."""
        spectra: dict[tuple[int, int], Spectrum] = {}
        for site in sites:
            shape = (site.out_features, site.in_features)
            if self.num_frequencies > shape[0] * shape[1]:
                raise ValueError(
                    f"adapter.num_frequencies={self.num_frequencies} is above the "
                    f"{shape[0] * shape[1]} entries of {site.name}: set it to at most that"
                )
            if shape not in spectra:
                shared = source.of(f"shared/{shape[0]}x{shape[1]}")
                spectra[shape] = Spectrum(shape, self.num_frequencies, shared)
        return [
            FourierFTLayer(site, self, spectra[site.out_features, site.in_features], source)
            for site in sites
        ]


class Spectrum(DeclaredTensors):
    """The positions of the entries of F, shared by all layers of a shape."""

    positions: Tensor

    def __init__(self, shape: tuple[int, int], count: int, source: RandomSource) -> None:
        super().__init__()
        self.shape = shape
        # numbered row by row
        self.regenerate("positions", source.subset("positions", shape[0] * shape[1], count))

    def forward(self, c: Tensor) -> Tensor:
        """Return Re(IDFT2(F)), (out, in), in float32 or better: FFTs take no half precision."""
        values = c.to(torch.promote_types(c.dtype, torch.float32))
        entries = values.new_zeros(self.shape[0] * self.shape[1])
        spectrum = entries.index_copy(0, self.positions, values).view(self.shape)
        return torch.fft.ifft2(spectrum).real


class FourierFTLayer(Adapter):
    """dW = s Re(IDFT2(F)); c (n,), the entries of F, is trained."""

    def __init__(
        self, site: Site, method: FourierFT, spectrum: Spectrum, source: RandomSource
    ) -> None:
        super().__init__(site, method.dropout)
        self.scale = method.scale
        self.spectrum = spectrum
        self.c = constant_parameter(source, (method.num_frequencies,), 0.0)

    def delta(self) -> Tensor:
        """Return the update dW, (out, in)."""
        return self.scale * self.spectrum(self.c)
