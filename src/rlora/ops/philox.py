"""Portable random structure: the same bits on every machine, device, dtype and library version.

Draws are named, not sequenced. (seed, name, tag) is hashed to the key of a counter-based generator
(Philox4x64-10), so a draw does not depend on earlier draws, and the global generators are never
touched. The mapping from raw 64-bit words to signs, permutations, uniforms and normals uses only
operations that IEEE 754 defines exactly. Adapters save a seed instead of their frozen matrices, so
changing any bit of this mapping would break every saved adapter.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. `numpy.random.Philox`
documents its raw stream as fixed across versions.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Literals, because `math.log` and `math.sqrt` may differ in the last bit between platforms.
LN_2 = 0.6931471805599453
SQRT_HALF = 0.7071067811865476


def raw_words(seed: int, name: str, tag: str, count: int) -> np.ndarray:
    """Return the first `count` raw 64-bit words of the stream named (seed, name, tag).

    Args:
        seed: Any integer, negative ones included.
        name: Stable name of the owner of the draw, such as a layer.
        tag: Purpose of the draw, such as "signs".
        count: Number of words.

    Returns:
        uint64 array of shape (count,).
    """
    # The separator cannot occur in a module name, so ("a", "bt") and ("ab", "t") differ.
    key = hashlib.sha256(f"{seed}\x1f{name}\x1f{tag}".encode()).digest()[:16]
    return np.random.Philox(key=int.from_bytes(key, "little")).random_raw(count)


def signs(words: np.ndarray, count: int) -> np.ndarray:
    """Map raw words to `count` independent signs, float32 of +-1.

    Each sign uses one bit, the least significant one first.
    """
    # "<u8" fixes the byte order, so that a big-endian machine reads the bits in the same order.
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=count, bitorder="little")
    return bits.astype(np.float32) * 2.0 - 1.0


def symmetric_uniforms(words: np.ndarray, count: int) -> np.ndarray:
    """Map raw words to `count` uniforms on (-1, 1), float32, two per word.

    The values are odd multiples of 2^-24, k = 2 * (upper 24 bits) + 1 - 2^24. They are exact in
    float32, symmetric, and never 0 or +-1.
    """
    halves = words.astype("<u8").view("<u4")[:count]  # low half of each word first
    odd = (halves >> np.uint32(8)).astype(np.int64) * 2 + 1 - 2**24
    return odd.astype(np.float32) * np.float32(2.0**-24)


def fractions(words: np.ndarray) -> np.ndarray:
    """Map raw words to uniforms on (0, 1), float64.

    The values are odd multiples of 2^-53 from the upper 52 bits. They are exact in float64, and
    never 0 or 1, where the normal quantile is infinite.
    """
    return ((words >> np.uint64(12)).astype(np.float64) * 2.0 + 1.0) * 2.0**-53


def log_exact(x: np.ndarray) -> np.ndarray:
    """Return the natural logarithm, computed with +, *, / alone.

        ln(m 2^e) = e ln 2 + 2 atanh((m - 1) / (m + 1)),   m in [sqrt(1/2), sqrt(2))

    The series of atanh is cut where its terms are below 1e-17. `np.log` would call the platform's
    libm or SIMD code, whose last bit differs between machines.
    """
    mantissa, exponent = np.frexp(x)  # mantissa in [1/2, 1)
    low = mantissa < SQRT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    exponent = np.where(low, exponent - 1, exponent)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square = ratio * ratio
    # Horner's scheme in a fixed order. Each NumPy operation rounds on its own, so no compiler can
    # fuse a multiply and an add into one rounding.
    series = np.zeros_like(square)
    for power in range(23, 0, -2):
        series = series * square + 1.0 / power
    return exponent * LN_2 + 2.0 * ratio * series


# Wichura, "Algorithm AS 241: The percentage points of the normal distribution", Applied Statistics
# 37(3), 1988, PPND16. (numerator, denominator) coefficients, highest power first, for the center,
# the shoulders and the tails.
_CENTER = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
     4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
     1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
     2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
     4.2313330701600911252e1, 1.0),
)  # fmt: skip
_SHOULDER = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258e0, 3.64784832476320460504e0, 5.76949722146069140550e0,
     4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0,
     2.05319162663775882187e0, 1.0),
)  # fmt: skip
_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
     2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580e0,
     5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
     7.86869131145613259100e-4, 1.48753612908506148525e-2, 1.36929880922735805310e-1,
     5.99832206555887937690e-1, 1.0),
)  # fmt: skip


def _rational(coefficients: tuple[Sequence[float], Sequence[float]], x: np.ndarray) -> np.ndarray:
    """Evaluate a ratio of two polynomials by Horner's scheme."""
    numerator = np.zeros_like(x)
    denominator = np.zeros_like(x)
    for a, b in zip(*coefficients, strict=True):
        numerator = numerator * x + a
        denominator = denominator * x + b
    return numerator / denominator


def normal_quantile(p: np.ndarray) -> np.ndarray:
    """Return the standard normal quantile of p in (0, 1).

    Wichura's AS 241 (PPND16) has a relative error of about 1e-16. It needs only rational functions,
    a logarithm and a square root, which IEEE 754 rounds exactly.
    """
    q = p - 0.5
    center = q * _rational(_CENTER, 0.180625 - q * q)
    # Both branches are evaluated for every p and selected below. min(p, 1 - p) makes the tails
    # symmetric and keeps small upper tails accurate.
    r = np.sqrt(-log_exact(np.minimum(p, 1.0 - p)))
    outer = np.where(r <= 5.0, _rational(_SHOULDER, r - 1.6), _rational(_TAIL, r - 5.0))
    return np.where(np.abs(q) <= 0.425, center, np.copysign(outer, q))


@dataclass(frozen=True)
class RandomSource:
    """Named random tensors for one layer.

    Every method is a pure function of (seed, name, tag) and the shape. Values are generated on the
    CPU in float32 and then moved to the device. On the meta device nothing is generated.

    Args:
        seed: The run's seed.
        name: Stable name of the layer, or of what several layers share.
        device: Device of the tensors.
    """

    seed: int
    name: str = ""
    device: torch.device | str = "cpu"

    def of(self, name: str) -> "RandomSource":
        """Return the source of another name with the same seed and device."""
        return RandomSource(self.seed, name, self.device)

    def uniform(self, tag: str, shape: Sequence[int], bound: float = 1.0) -> Tensor:
        """Return uniforms on (-bound, bound), float32."""

        def draw(words: np.ndarray, count: int) -> np.ndarray:
            # One float32 product, rounded the same way on every machine.
            return symmetric_uniforms(words, count) * np.float32(bound)

        return self._draw(tag, shape, 2, draw)

    def signs(self, tag: str, shape: Sequence[int]) -> Tensor:
        """Return random signs +-1, float32."""
        return self._draw(tag, shape, 64, signs)

    def normal(self, tag: str, shape: Sequence[int]) -> Tensor:
        """Return standard normals, float32, computed in float64 and rounded once."""
        return self._draw(
            tag, shape, 1, lambda words, _: normal_quantile(fractions(words)).astype(np.float32)
        )

    def sparse_signs(self, tag: str, shape: Sequence[int], density: float) -> Tensor:
        """Return 0 with probability 1 - density, else a random sign, float32."""

        def draw(words: np.ndarray, _: int) -> np.ndarray:
            # The lowest bit is the sign. `fractions` reads only the upper 52 bits, so whether an
            # entry is zero is independent of its sign.
            sign = (words & np.uint64(1)).astype(np.float32) * 2.0 - 1.0
            return np.where(fractions(words) < density, sign, np.float32(0.0)).astype(np.float32)

        return self._draw(tag, shape, 1, draw)

    def permutation(self, tag: str, n: int) -> Tensor:
        """Return a random permutation of 0..n-1, int64 (n,): the order of n raw words."""
        if torch.device(self.device).type == "meta":
            return torch.empty(n, dtype=torch.int64, device="meta")
        # A stable sort, so that equal words (2^-64 per pair) cannot depend on the algorithm.
        order = np.argsort(raw_words(self.seed, self.name, tag, n), kind="stable")
        return torch.from_numpy(order.astype(np.int64)).to(self.device)

    def subset(self, tag: str, n: int, size: int) -> Tensor:
        """Return `size` distinct numbers out of 0..n-1 in random order, int64 (size,)."""
        # The copy frees the other n - size numbers.
        return self.permutation(tag, n)[:size].clone()

    def _draw(
        self,
        tag: str,
        shape: Sequence[int],
        per_word: int,
        mapping: Callable[[np.ndarray, int], np.ndarray],
    ) -> Tensor:
        """Map raw words to a float32 tensor, with `per_word` values from each word."""
        if torch.device(self.device).type == "meta":
            return torch.empty(tuple(shape), dtype=torch.float32, device="meta")
        count = math.prod(shape)
        words = raw_words(self.seed, self.name, tag, -(-count // per_word))  # ceiling
        return torch.from_numpy(mapping(words, count)).reshape(tuple(shape)).to(self.device)
