"""All compute paths agree, the cheapest one runs, and none keeps more for backward than PEFT."""

import copy

import adapter_zoo as zoo
import peft
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import RobertaConfig, RobertaForSequenceClassification

from rlora.adapters import base, inject, vera
from rlora.adapters.declared import Site
from rlora.adapters.dispatch import (
    ComputePath,
    cheapest_path,
    force_path,
    low_rank_costs,
    transform_cost,
)
from rlora.adapters.linear import AdaptedLinear
from rlora.adapters.lora import LoRA
from rlora.adapters.randlora import RandLoRA
from rlora.adapters.rlora import RLoRA
from rlora.adapters.vera import VeRA
from rlora.ops import thin_products
from rlora.ops.philox import RandomSource

CPU = torch.device("cpu")


def plain(model):
    """Turn the fused functions off: the layers' outputs plus dW x."""
    for module in model.modules():
        if isinstance(module, AdaptedLinear):
            module._fusible = lambda _: False
    return model


def results(model):
    """Return the logits and the gradients of all trained parameters, in float64."""
    model.zero_grad()
    logits = zoo.logits(model)
    (logits.square().sum()).backward()
    return [logits.detach()] + [p.grad for p in model.parameters() if p.requires_grad]


def perturbed(adapt, model, name, **changes):
    adapted = adapt(model, name, **changes)
    zoo.perturb([p for p in adapted.model.parameters() if p.requires_grad], 0.2, seed=5)
    return adapted.model.double()


@pytest.mark.parametrize("path", list(ComputePath))
@pytest.mark.parametrize("name", zoo.KINDS)
@pytest.mark.parametrize("model", list(zoo.TARGETS))
def test_all_paths_agree(model, name, path, adapt):
    model_under_test = perturbed(adapt, model, name)
    reference = plain(copy.deepcopy(model_under_test))
    with force_path(path):
        actual = results(model_under_test)
    torch.testing.assert_close(actual, results(reference), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("model", list(zoo.TARGETS))
def test_randlora_agrees_kept_and_computed_again(model, keep, adapt):
    model_under_test = perturbed(adapt, model, "randlora-uniform-0", keep_delta=keep)
    torch.testing.assert_close(
        results(model_under_test),
        results(plain(copy.deepcopy(model_under_test))),
        rtol=1e-8,
        atol=1e-10,
    )


def crossovers(limit=4096, **shape):
    """Return where the cheapest path changes: (tokens, before, after)."""
    actual, last = [], None
    for tokens in range(1, limit):
        costs = low_rank_costs(tokens, dtype=torch.float32, **shape)
        path = cheapest_path(costs)
        if last is not None and path is not last:
            actual.append((tokens, last, path))
        last = path
    return actual


# rank, in, out, and the cheapest paths in order of growing numbers of tokens
CROSSOVERS = [
    (LoRA, 8, 48, 80, [ComputePath.FACTORED, ComputePath.MERGED_FORWARD, ComputePath.MERGED]),
    (LoRA, 8, 80, 48, [ComputePath.FACTORED, ComputePath.MERGED_BACKWARD, ComputePath.MERGED]),
    (LoRA, 8, 64, 64, [ComputePath.FACTORED, ComputePath.MERGED]),
    (LoRA, 40, 48, 80, [ComputePath.FACTORED, ComputePath.MERGED_FORWARD, ComputePath.FULL]),
    (VeRA, 8, 48, 80, [ComputePath.FACTORED, ComputePath.MERGED_BACKWARD, ComputePath.MERGED]),
    (
        VeRA,
        40,
        64,
        64,
        [ComputePath.FACTORED, ComputePath.MERGED_BACKWARD, ComputePath.MERGED, ComputePath.FULL],
    ),
    (
        VeRA,
        24,
        80,
        48,
        [ComputePath.FACTORED, ComputePath.MERGED_BACKWARD, ComputePath.MERGED],
    ),  # x is too wide to be kept
]


@pytest.mark.parametrize(("method", "rank", "size", "out", "expected"), CROSSOVERS)
def test_both_paths_agree_at_every_crossover(method, rank, size, out, expected):
    trains_a = method is LoRA
    actual = crossovers(in_features=size, out_features=out, rank=rank, trains_a=trains_a)
    assert [before for _, before, _ in actual] + [actual[-1][2]] == expected
    layer = method(rank=rank, alpha=float(rank)).build([Site("x", out, size)], RandomSource(0))[0]
    zoo.perturb(layer.parameters(), 0.5, seed=1)
    w, c = torch.randn(out, size), torch.randn(out)
    for tokens, before, after in actual:
        for count in (tokens - 1, tokens):
            x = torch.randn(count, size, requires_grad=True)
            chosen = cheapest_path(layer.costs(x, rank))
            assert chosen is (before if count < tokens else after)
            outcomes = []
            for path in (before, after):
                with force_path(path):
                    y = layer.linear(x, w, c)
                outcomes.append(
                    (y, *torch.autograd.grad(y.square().mean(), (x, *layer.parameters())))
                )
            torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", ["srht", "fastfood"])
@pytest.mark.parametrize(("out", "size"), [(48, 100), (64, 64), (100, 30)])
@pytest.mark.parametrize("rank", [1, 7, 30])
def test_transforms_of_activations_equal_the_factors(rank, out, size, transform):
    layer = (
        RLoRA(rank=rank, transform=transform, core=True)
        .build([Site("x", out, size)], RandomSource(3))[0]
        .double()
    )
    nn.init.normal_(layer.b)
    nn.init.normal_(layer.g)
    x = torch.randn(2, 5, size, dtype=torch.float64, requires_grad=True)
    actual, expected = layer.transformed(x, layer.a, layer.b, layer.g), F.linear(x, layer.delta())
    torch.testing.assert_close(actual, expected)
    inputs = (x, layer.a, layer.b, layer.g)
    g = torch.randn_like(actual)
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, g), torch.autograd.grad(expected, inputs, g)
    )


def test_large_ranks_with_few_tokens_run_by_transforms():
    layer = RLoRA(rank=512).build([Site("x", 512, 512)], RandomSource(0))[0]
    few, many, low = torch.zeros(16, 512), torch.zeros(65536, 512), 8
    assert cheapest_path(layer.costs(few, 512)) is ComputePath.TRANSFORMED
    assert cheapest_path(layer.costs(many, 512)) is ComputePath.FULL
    assert cheapest_path(layer.costs(few, low)) is not ComputePath.TRANSFORMED
    assert transform_cost(2, 512, 512, CPU) == 2 * transform_cost(1, 512, 512, CPU)


def test_half_precision_adds_low_rank_updates_to_activations():
    """W + dW rounded to bfloat16 would lose a small dW."""
    layer = LoRA(rank=4).build([Site("x", 64, 64)], RandomSource(0))[0]
    nn.init.constant_(layer.B, 1e-4)
    w, x = torch.ones(64, 64, dtype=torch.bfloat16), torch.ones(4096, 64, dtype=torch.bfloat16)
    x[:, 1::2] = -1
    y = layer.linear(x, w, None)
    assert cheapest_path(layer.costs(x, 4)) is ComputePath.FACTORED
    torch.testing.assert_close(y.float(), x.float() @ layer.delta().T, rtol=0.05, atol=1e-5)


class Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.setdefault(str(func), []).append(
            [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]
        )
        return func(*args, **(kwargs or {}))


def test_vera_projects_an_input_once_for_the_layers_that_read_it(monkeypatch):
    model = zoo.build("bert")
    inject(model, VeRA(rank=5, targets=("q", "k", "v")))
    projections = []
    monkeypatch.setattr(
        vera, "project", lambda a, x: projections.append(1) or thin_products.project(a, x)
    )
    zoo.logits(model).sum().backward()
    assert len(projections) == len(model.bert.encoder.layer)
    bases = next(module for module in model.modules() if type(module).__name__ == "VeRABases")
    assert bases.projections._result is None  # gone with the input


def test_a_changed_input_is_projected_again():
    layer = VeRA(rank=5).build([Site("x", 6, 7)], RandomSource(0))[0]
    nn.init.ones_(layer.b)
    w, x = torch.zeros(6, 7), torch.ones(3, 7)
    first = layer.linear(x, w, None)
    x.mul_(2)
    torch.testing.assert_close(layer.linear(x, w, None), 2 * first)
    with torch.no_grad():
        layer.bases.A.mul_(3)
    torch.testing.assert_close(layer.linear(x, w, None), 6 * first)


def test_forward_samples_nothing(adapt):
    ids = zoo.token_ids()
    for name in zoo.KINDS:
        model = adapt("bert", name).model
        with Counter() as counter:
            zoo.logits(model, ids).sum().backward()
        assert not [
            call
            for call in counter.calls
            if "rand" in call or "bernoulli" in call or "normal_" in call
        ]


# what is kept for backward, against PEFT

ROBERTA = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 50,
}
SUFFIXES = {
    "q,v": (("q", "v"), ["query", "value"]),
    "all": (
        ("q", "k", "v", "o", "fc1", "fc2"),
        ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
    ),
}
PAIRS = {
    "lora": (LoRA(rank=4), peft.LoraConfig, {"r": 4}),
    "vera": (VeRA(rank=16), peft.VeraConfig, {"r": 16}),
    "randlora": (RandLoRA(rank=8, alpha=160), peft.RandLoraConfig, {"r": 8}),
}


def roberta():
    torch.manual_seed(0)
    return RobertaForSequenceClassification(
        RobertaConfig(**ROBERTA, max_position_embeddings=66)
    ).train()


def bytes_kept(model, tokens):
    """Return the bytes of the storages that forward keeps, without parameters and buffers."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    held = {}

    def pack(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(input_ids=tokens, labels=torch.zeros(len(tokens), dtype=torch.long)).loss
    loss.backward()
    return sum(t.untyped_storage().nbytes() for address, t in held.items() if address not in known)


@pytest.mark.parametrize("precision", ["float32", "autocast"])
@pytest.mark.parametrize("shape", [(4, 16), (8, 64)])  # below and above the layers' widths
@pytest.mark.parametrize("targets", list(SUFFIXES))
@pytest.mark.parametrize("name", list(PAIRS))
def test_no_adapter_keeps_more_for_backward_than_peft(name, targets, shape, precision):
    method, config, options = PAIRS[name]
    roles, suffixes = SUFFIXES[targets]
    ours, theirs = (
        roberta(),
        peft.get_peft_model(roberta(), config(target_modules=suffixes, **options)),
    )
    inject(ours, type(method)(**{**method.__dict__, "targets": roles}))
    tokens = torch.randint(5, 50, shape, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        assert bytes_kept(ours, tokens) <= bytes_kept(theirs, tokens)


@pytest.mark.parametrize(
    "name", ["lora", "rlora-srht", "rlora-fastfood-core", "nola-dense", "vera"]
)
def test_the_cost_model_runs_once_per_layer_and_forward(name, adapt, monkeypatch):
    calls = []
    costs = base.low_rank_costs
    monkeypatch.setattr(base, "low_rank_costs", lambda *a, **k: calls.append(1) or costs(*a, **k))
    adapted = adapt("bert", name)
    zoo.logits(adapted.model)
    assert len(calls) == len(adapted.adapters.adapters)
