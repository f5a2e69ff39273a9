"""Turns, ratios, fits, bytes and the gradients of naive NOLA in the benchmarks."""

import math
import weakref

import pytest
import torch

import benchmarks.__main__ as cli
from benchmarks import naive_nola
from benchmarks.arithmetic import floor, flops_of, large_product
from benchmarks.hadamard import fit_in_log
from benchmarks.large import with_ratios
from benchmarks.memory import footprint, saved_for_backward
from benchmarks.naive_nola import NaiveNOLALinear, draw_basis
from benchmarks.timing import compare, rotated, take_turns

CPU = torch.device("cpu")


def test_ratios():
    times = compare({"base": [1.0, 2.0, 4.0], "other": [3.0, 3.0, 20.0]}, "base")
    assert times["base"] == {
        "median_s": 2.0,
        "ratio": 1.0,
        "median_of_ratios": 1.0,
        "rounds_s": [1.0, 2.0, 4.0],
    }
    assert times["other"]["ratio"] == 1.5  # 3 / 2
    assert times["other"]["median_of_ratios"] == 3.0  # of 3, 1.5 and 5


def test_the_first_place_rotates():
    assert [rotated("abc", turn) for turn in range(4)] == [
        list("abc"),
        list("bca"),
        list("cab"),
        list("abc"),
    ]
    order = []
    candidates = {name: lambda name=name: lambda: order.append(name) for name in "abc"}
    times = take_turns(candidates, 2, CPU)
    assert order == list("abcbca")
    assert {name: len(rounds) for name, rounds in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_failed_variants_have_no_ratio():
    variants = with_ratios(
        {"limit": {"error": "no room"}, "lora": {"rounds_s": [2.0, 2.0], "tokens": 10}}
    )
    assert variants["limit"] == {"error": "no room"}
    assert variants["lora"] == {
        "rounds_s": [2.0, 2.0],
        "tokens": 10,
        "median_s": 2.0,
        "tokens_per_s": 5.0,
    }
    assert with_ratios({"limit": {"error": "no room"}}) == {"limit": {"error": "no room"}}
    both = with_ratios(
        {"limit": {"rounds_s": [1.0], "tokens": 1}, "lora": {"rounds_s": [2.0], "tokens": 1}}
    )
    assert both["lora"]["ratio"] == 2.0
    assert cli._failures({"model": {"variants": {"limit": {"error": "no room"}}}})


def test_the_fit_recovers_a_line_in_log_n():
    fit = fit_in_log([64, 128, 512], [3 + 2 * 6, 3 + 2 * 7, 3 + 2 * 9])
    assert fit == pytest.approx({"constant": 3.0, "slope": 2.0, "r2": 1.0, "worst": 0.0})


def test_flops_count_forward_and_backward():
    x, w = torch.ones(5, 7, requires_grad=True), torch.ones(3, 7)
    assert flops_of(lambda: torch.nn.functional.linear(x, w).sum()) == 2 * (2 * 5 * 7 * 3)
    total = torch.zeros(5, 3)
    assert (
        flops_of(lambda: total.clone().addmm_(x.detach(), w.t()).sum() + x.sum()) == 2 * 5 * 7 * 3
    )
    product, flops = large_product(5, 7, 3, CPU)
    assert product().shape == (5, 3)
    assert flops == 2 * 5 * 7 * 3
    assert floor(flops=150, limit_flops=100, limit_seconds=2.0, flops_per_s=50.0) == 1.5


def product(parameter):
    """Run a step that saves two tensors of 400 kB, with a peak of 4 MB besides the first."""
    x = torch.ones(100, 1000)
    torch.ones(10, 100, 1000)
    y = x * parameter  # saves x and the parameter
    z = y.exp()  # saves z twice: it and its view share a storage
    del y
    return (z.view(-1) * z.view(-1).detach()).sum()


def test_every_storage_counts_once():
    model = torch.nn.LayerNorm(1000, bias=False)
    assert saved_for_backward(lambda: product(model.weight), model) == 2 * 400_000
    used = footprint(lambda: product(model.weight), CPU)
    assert used["held"] == 2 * 400_000 + 4  # the loss has 4 bytes
    assert used["peak"] == 400_000 + 4_000_000


def test_counting_bytes_frees_the_graph():
    model = torch.nn.LayerNorm(1000, bias=False)
    seen = []

    def forward():
        y = (torch.ones(100, 1000) * model.weight).exp()
        seen.append(weakref.ref(y.untyped_storage()))
        return y.sum()

    assert saved_for_backward(forward, model) == 2 * 400_000
    assert seen[0]() is None


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_naive_nola_matches_the_explicit_formula(shape, monkeypatch):
    calls = []
    monkeypatch.setattr(
        naive_nola, "draw_basis", lambda *args: calls.append(args) or draw_basis(*args)
    )
    torch.manual_seed(0)
    base = torch.nn.Linear(*shape)
    layer = NaiveNOLALinear(base.requires_grad_(False), rank=2, num_bases=4, seed=6, scale=0.5)
    with torch.no_grad():
        layer.a.normal_()
        layer.b.normal_()
    x = torch.randn(7, shape[0], requires_grad=True)
    y = layer(x)
    assert len(calls) == 2
    target = torch.randn_like(y)
    gradients = torch.autograd.grad((y * target).sum(), [x, layer.a, layer.b])
    assert sorted(calls[2:]) == sorted(calls[:2])  # backward regenerates the same bases

    rights = draw_basis(4, 2 * shape[0], 6, CPU).view(4, 2, shape[0])
    lefts = draw_basis(4, 2 * shape[1], 7, CPU).view(4, shape[1], 2)
    a = layer.A0 + torch.einsum("k,kri->ri", layer.a, rights)
    b = torch.einsum("k,kor->or", layer.b, lefts)
    explicit = base(x) + 0.5 * x @ (b @ a).T
    torch.testing.assert_close(y, explicit)
    expected = torch.autograd.grad((explicit * target).sum(), [x, layer.a, layer.b])
    torch.testing.assert_close(gradients, expected)
    assert rights.abs().max() <= 1 / math.sqrt(4)
