"""Options out of range are refused, naming the config key."""

import math

import adapter_zoo as zoo
import pytest

from rlora.adapters import inject
from rlora.adapters.checkpoint import free_options, weight_options
from rlora.adapters.dora import DoRA
from rlora.adapters.fourierft import FourierFT
from rlora.adapters.lora import LoRA
from rlora.adapters.lora_xs import LoRAXS
from rlora.adapters.nola import NOLA
from rlora.adapters.randlora import RandLoRA
from rlora.adapters.rlora import RLoRA
from rlora.adapters.vera import VeRA

METHODS = [LoRA, RLoRA, NOLA, RandLoRA, VeRA, DoRA, LoRAXS]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("key", "value"),
    [("rank", value) for value in (0, -1, True, 2.5, "8", None)]
    + [("alpha", value) for value in (0, -1.0, math.nan, math.inf, "16", None)]
    + [("dropout", value) for value in (1, 1.5, -0.1, math.nan, "0.1", None)],
)
def test_shared_options(method, key, value):
    with pytest.raises(ValueError, match=rf"adapter\.{key}="):
        method(**{key: value})


@pytest.mark.parametrize("method", METHODS)
def test_the_limits_are_allowed(method):
    assert method(rank=1, alpha=1e-3, dropout=0).scale == 1e-3
    assert method(dropout=0.999).dropout == 0.999


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (RLoRA, {"transform": "fwht"}),
        (RLoRA, {"transform": None}),
        (NOLA, {"basis": "sparse"}),
        (RandLoRA, {"basis": "gaussian"}),
        (RandLoRA, {"scaling": "alpha/sqrt(r)"}),
        (NOLA, {"num_bases": 0}),
        (NOLA, {"num_bases": -3}),
        (NOLA, {"num_bases": True}),
        (NOLA, {"num_bases": 2.0}),
        (FourierFT, {"num_frequencies": 0}),
        (FourierFT, {"num_frequencies": True}),
        (FourierFT, {"alpha": 0}),
        (FourierFT, {"dropout": 1}),
    ],
)
def test_options_of_one_method(method, options):
    (key,) = options
    with pytest.raises(ValueError, match=rf"adapter\.{key}="):
        method(**options)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, "0.1"])
def test_a_start_of_vera_that_could_never_train_is_refused(value):
    with pytest.raises(ValueError, match=r"adapter\.d_start="):
        VeRA(d_start=value)


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_above_the_layer_is_refused(method):
    chosen = method(rank=33, targets=["q", "fc1"])
    if method is VeRA:
        assert len(inject(zoo.build("bert"), chosen).adapters) == 4
        return
    with pytest.raises(ValueError, match=r"adapter\.rank=33 is above .* 32 of .*query.*1\.\.32"):
        inject(zoo.build("bert"), chosen)
    assert len(inject(zoo.build("bert"), method(rank=32, targets=["q", "fc1"])).adapters) == 4


def test_more_frequencies_than_entries_are_refused():
    with pytest.raises(
        ValueError, match=r"adapter\.num_frequencies=1025 is above the 1024 entries"
    ):
        inject(zoo.build("bert"), FourierFT(num_frequencies=1025, targets=["fc1", "q"]))


def test_fields_declare_whether_saved_weights_depend_on_them():
    assert free_options(LoRA()) == free_options(FourierFT()) == {"dropout", "targets"}
    assert free_options(RandLoRA()) == {"dropout", "targets", "keep_delta"}
    assert weight_options(FourierFT()) == {
        "name": "FourierFT",
        "alpha": 150.0,
        "num_frequencies": 1000,
    }


def test_unknown_options_are_refused():
    for method in METHODS:
        with pytest.raises(TypeError):
            method(ranks=4)


def test_methods_are_values():
    assert LoRA(rank=4) == LoRA(rank=4) != LoRA(rank=5)
    with pytest.raises(AttributeError):
        LoRA().rank = 3


def test_scales():
    assert LoRA(rank=4, alpha=8).scale == 2
    assert LoRA(rank=4, alpha=8, rank_stabilized=True).scale == 4
    assert FourierFT(alpha=8).scale == 8
    for method in (RLoRA, NOLA, RandLoRA, VeRA, DoRA, LoRAXS):
        assert method(rank=4, alpha=6).scale == 1.5
