"""Our methods against those of the PEFT library: equal values give equal outputs and gradients."""

import adapter_zoo as zoo
import pytest
import torch

from rlora.adapters import inject
from rlora.adapters.dora import DoRA
from rlora.adapters.fourierft import FourierFT
from rlora.adapters.lora import LoRA
from rlora.adapters.randlora import RandLoRA
from rlora.adapters.vera import VeRA

peft = pytest.importorskip("peft")

# square; tall (out > in); wide (out < in); square and tall sharing VeRA's pair
LAYERS = {
    "square": ["query", "value"],
    "tall": ["intermediate.dense"],
    "wide": [r"\d+\.output\.dense"],
}


def both(method, config, layers, copy):
    """Our model and PEFT's with the same values: [(our layer, PEFT's layer)] and the two models."""
    ours, theirs = zoo.build("bert"), zoo.build("bert")
    adapters = inject(ours, method)
    zoo.perturb(adapters.adapter_parameters(), 0.3)
    wrapped = peft.get_peft_model(theirs, config).base_model.model
    named = dict(wrapped.named_modules())
    pairs = [(adapter, named[f"bert.{site}"]) for site, adapter in adapters.adapters.items()]
    assert len(pairs) == 2 * (len(layers) if isinstance(layers, list) else 1)
    with torch.no_grad():
        for our, their in pairs:
            copy(our, their)
    return ours, wrapped, pairs


def expression(layers):
    """One expression for both libraries."""
    return rf".*\.({'|'.join(LAYERS[layers])})"


def check(ours, theirs, gradients, rtol=1e-8, atol=1e-9):
    start = zoo.logits(zoo.build("bert"))
    actual, expected = zoo.logits(ours.double()), zoo.logits(theirs.double())
    assert (expected - start).abs().max() > 1e-2
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)
    actual.square().mean().backward()
    expected.square().mean().backward()
    for our, their in gradients():
        assert their.abs().max() > 1e-9
        torch.testing.assert_close(our, their, rtol=max(rtol, 1e-6), atol=atol)


@pytest.mark.parametrize("stabilized", [False, True])
@pytest.mark.parametrize("layers", LAYERS)
def test_lora(layers, stabilized):
    method = LoRA(rank=6, alpha=9.0, targets=expression(layers), rank_stabilized=stabilized)
    config = peft.LoraConfig(
        r=6,
        lora_alpha=9.0,
        target_modules=expression(layers),
        use_rslora=stabilized,
        lora_dropout=0.0,
    )

    def copy(our, their):
        their.lora_A["default"].weight.copy_(our.A)
        their.lora_B["default"].weight.copy_(our.B)
        assert their.scaling["default"] == method.scale

    ours, theirs, pairs = both(method, config, LAYERS[layers], copy)

    def gradients():
        for our, their in pairs:
            yield our.A.grad, their.lora_A["default"].weight.grad
            yield our.B.grad, their.lora_B["default"].weight.grad

    check(ours, theirs, gradients)


@pytest.mark.parametrize("rank", [6, 40])
@pytest.mark.parametrize("layers", LAYERS)
def test_vera(layers, rank):
    # PEFT, as the paper, has no scale: alpha = rank
    method = VeRA(rank=rank, alpha=rank, targets=expression(layers))
    config = peft.VeraConfig(r=rank, target_modules=expression(layers))

    def copy(our, their):
        assert torch.equal(their.vera_lambda_d["default"], torch.full((rank,), method.d_start))
        their.vera_A["default"] = our.bases.A.clone()
        their.vera_B["default"] = our.bases.B.clone()
        their.vera_lambda_d["default"].copy_(our.d)
        their.vera_lambda_b["default"].copy_(our.b)

    ours, theirs, pairs = both(method, config, LAYERS[layers], copy)

    def gradients():
        for our, their in pairs:
            yield our.d.grad, their.vera_lambda_d["default"].grad
            yield our.b.grad, their.vera_lambda_b["default"].grad

    check(ours, theirs, gradients)


@pytest.mark.parametrize("shape", [(48, 32), (32, 48)])
def test_vera_draws_its_pair_from_the_law_of_peft(shape):
    from peft.tuners.vera.model import _kaiming_init

    theirs = _kaiming_init(shape, generator=torch.Generator().manual_seed(0))
    bound = (6 / shape[1]) ** 0.5
    assert 0.98 * bound < theirs.abs().max() <= bound


@pytest.mark.parametrize("rank", [8, 6])  # 6 does not divide 32: the last product is cut
@pytest.mark.parametrize("layers", LAYERS)
def test_randlora(layers, rank):
    method = RandLoRA(rank=rank, alpha=3.0, targets=expression(layers))
    config = peft.RandLoraConfig(
        r=rank, randlora_alpha=3, target_modules=expression(layers), randlora_dropout=0.0
    )

    def copy(our, their):
        products = len(our.lambda_)
        assert their.scaling["default"] == method.scale
        torch.testing.assert_close(
            their.randlora_gamma["default"], torch.full((products, 32), 1 / 32)
        )
        # PEFT flattens A's rows with the product index fastest and B's columns with the rank index
        # fastest, and pairs them by position: so B's columns are re-ordered for column r n + j to
        # be ours of product j, rank r
        paired = our.bases.B.transpose(1, 2).reshape(our.bases.B.shape)
        their.randlora_A["default"] = our.bases.A[:, None, :].clone()
        their.randlora_B["default"] = paired.clone()
        their.randlora_lambda["default"].copy_(our.lambda_.T)
        their.randlora_gamma["default"].copy_(our.gamma)

    ours, theirs, pairs = both(method, config, LAYERS[layers], copy)

    def gradients():
        for our, their in pairs:
            yield our.lambda_.grad.T, their.randlora_lambda["default"].grad
            yield our.gamma.grad, their.randlora_gamma["default"].grad

    check(ours, theirs, gradients)


@pytest.mark.parametrize("layers", LAYERS)
def test_dora(layers):
    method = DoRA(rank=6, alpha=9.0, targets=expression(layers))
    config = peft.LoraConfig(
        r=6, lora_alpha=9.0, target_modules=expression(layers), use_dora=True, lora_dropout=0.0
    )

    def copy(our, their):
        magnitude = their.lora_magnitude_vector["default"].weight
        torch.testing.assert_close(magnitude, our.site.weight().norm(dim=1))  # PEFT's start
        magnitude.copy_(our.m)
        their.lora_A["default"].weight.copy_(our.A)
        their.lora_B["default"].weight.copy_(our.B)

    ours, theirs, pairs = both(method, config, LAYERS[layers], copy)

    def gradients():
        for our, their in pairs:
            yield our.A.grad, their.lora_A["default"].weight.grad
            yield our.B.grad, their.lora_B["default"].weight.grad
            yield our.m.grad, their.lora_magnitude_vector["default"].weight.grad

    check(ours, theirs, gradients)


@pytest.mark.parametrize("layers", LAYERS)
def test_fourierft(layers):
    method = FourierFT(num_frequencies=12, alpha=90.0, targets=expression(layers))
    config = peft.FourierFTConfig(
        n_frequency=12, scaling=90.0, target_modules=expression(layers), init_weights=True
    )

    def copy(our, their):
        rows, columns = their.indices["default"]
        assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 12
        assert not their.fourierft_spectrum["default"].any()  # PEFT's start with init_weights
        positions = our.spectrum.positions
        width = our.site.in_features
        their.indices["default"] = torch.stack([positions // width, positions % width])
        their.fourierft_spectrum["default"].copy_(our.c)

    ours, theirs, pairs = both(method, config, LAYERS[layers], copy)

    def gradients():
        for our, their in pairs:
            yield our.c.grad, their.fourierft_spectrum["default"].grad

    # PEFT computes the spectrum in float32 whatever the model's dtype
    check(ours, theirs, gradients, rtol=1e-5, atol=1e-6)
