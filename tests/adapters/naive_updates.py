"""dW of every method in NumPy float64, by explicit matrices and loops, from the papers' formulas.

Only the random structure (rows, signs, permutations, banks), derived tensors and the trained values
are read off the adapter.
"""

import math

import numpy as np
import scipy.linalg


def array(tensor):
    return tensor.detach().double().numpy() if tensor.is_floating_point() else tensor.numpy()


def hadamard(n):
    return scipy.linalg.hadamard(n).astype(np.float64)


def padded_order(d):
    n = 1
    while n < d:
        n *= 2
    return n


def selection(rows, n):
    """S_r: one row a choice, a single 1 in each."""
    matrix = np.zeros((len(rows), n))
    for i, row in enumerate(rows):
        matrix[i, row] = 1
    return matrix


def permutation(order):
    """Pi with column j having its 1 in row order[j]."""
    matrix = np.zeros((len(order), len(order)))
    for j, i in enumerate(order):
        matrix[i, j] = 1
    return matrix


def lora(method, layer):
    s = method.alpha / (math.sqrt(method.rank) if method.rank_stabilized else method.rank)
    return s * array(layer.B) @ array(layer.A)


def _half(transform, method, diagonal, d):
    n = padded_order(d)
    s_r, d_signs = selection(array(transform.rows), n), np.zeros(n)
    d_signs[:d] = array(transform.signs)
    if method.transform == "srht":
        values = np.zeros(n)
        values[:d] = diagonal
        return (s_r @ hadamard(n) @ np.diag(values) @ np.diag(d_signs))[:, :d]
    pi = permutation(array(transform.permutation))
    orthonormal = hadamard(n) / math.sqrt(n)
    return (s_r @ hadamard(n) @ np.diag(diagonal) @ pi @ orthonormal @ np.diag(d_signs))[:, :d]


def rlora(method, layer):
    a = _half(layer.right, method, array(layer.a), layer.site.in_features)
    b = _half(layer.left, method, array(layer.b), layer.site.out_features).T
    g = array(layer.g) if method.core else np.ones(method.rank)
    return method.alpha / method.rank * b @ np.diag(g) @ a


def nola_basis(method, basis, shape):
    """The k basis matrices of a factor."""
    k, size = method.num_bases, math.prod(shape)
    if method.basis == "dense":
        return [array(basis.bank)[j].reshape(shape) for j in range(k)]
    n = padded_order(size)
    matrices = []
    for j in range(k):
        unit = np.zeros(n)
        unit[j] = 1
        mixed = permutation(array(basis.permutation)).T @ (hadamard(n) @ unit)
        flipped = np.diag(array(basis.signs)) @ mixed
        matrices.append(
            (hadamard(n) @ flipped)[:size].reshape(shape) / math.sqrt(n) / math.sqrt(3 * k)
        )
    return matrices


def nola(method, layer):
    a, b = array(layer.A0), np.zeros((layer.site.out_features, method.rank))
    for value, matrix in zip(
        array(layer.a), nola_basis(method, layer.right.basis, a.shape), strict=True
    ):
        a = a + value * matrix
    for value, matrix in zip(
        array(layer.b), nola_basis(method, layer.left.basis, b.shape), strict=True
    ):
        b = b + value * matrix
    return method.alpha / method.rank * b @ a


def randlora(method, layer):
    out, inner = layer.site.out_features, layer.site.in_features
    m, large, r = min(out, inner), max(out, inner), method.rank
    n = -(-m // r)
    s = method.alpha / r / (math.sqrt(n) if method.scaling != "alpha/r" else 1)
    a, b = array(layer.bases.A)[:r, :m], array(layer.bases.B)
    total = np.zeros((large, m))
    for j in range(n):
        b_j = b[:large, j, :r]
        total += s * b_j @ np.diag(array(layer.lambda_)[j]) @ a @ np.diag(array(layer.gamma)[j])
    return total if out >= inner else total.T


def vera(method, layer):
    out, inner, r = layer.site.out_features, layer.site.in_features, method.rank
    b, a = array(layer.bases.B)[:out, :r], array(layer.bases.A)[:r, :inner]
    return method.alpha / r * np.diag(array(layer.b)) @ b @ np.diag(array(layer.d)) @ a


def dora(method, layer):
    w = array(layer.site.weight())
    v = w + method.alpha / method.rank * array(layer.B) @ array(layer.A)
    magnitudes = np.sqrt((v**2).sum(1))
    return np.diag(array(layer.m) / magnitudes) @ v - w


def lora_xs(method, layer):
    return method.alpha / method.rank * array(layer.B) @ array(layer.R) @ array(layer.A)


def fourierft(method, layer):
    out, inner = layer.site.out_features, layer.site.in_features
    p, q = np.meshgrid(np.arange(out), np.arange(inner), indexing="ij")
    total = np.zeros((out, inner))
    for position, value in zip(array(layer.spectrum.positions), array(layer.c), strict=True):
        j, k = divmod(int(position), inner)
        total += value * np.cos(2 * np.pi * (p * j / out + q * k / inner))
    return method.alpha * total / (out * inner)


def delta(method, layer):
    """The update of one layer."""
    formulas = {
        "LoRA": lora,
        "RLoRA": rlora,
        "NOLA": nola,
        "RandLoRA": randlora,
        "VeRA": vera,
        "DoRA": dora,
        "LoRAXS": lora_xs,
        "FourierFT": fourierft,
    }
    return formulas[type(method).__name__](method, layer)
