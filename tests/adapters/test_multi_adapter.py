"""Several adapters on one backbone: per call and per row, each equals the adapter alone."""

import pytest
import torch

from rlora.adapters import checkpoint
from rlora.adapters.full import Full
from rlora.adapters.lora import LoRA
from rlora.adapters.multi_adapter import MultiAdapterModel

TOKENS = torch.arange(20).reshape(2, 10) + 5
ADAPTERS = {
    "one": ("lora", ("q", "v")),
    "two": ("rlora", "all-linear"),
    "three": ("randlora", ("q",)),
    "four": ("dora", ("q", "v")),
    "five": ("lora_xs", "all-linear"),
    "six": ("fourierft", ("v",)),
}


@pytest.fixture(params=["bert", "gpt2", "llama"])
def adapted_model(request, trained, fresh, tmp_path):
    """A model with all adapters, and the logits of each where it was trained."""
    several = MultiAdapterModel(fresh(request.param), "x")
    logits = {None: fresh(request.param)(TOKENS).logits}
    for number, (name, (method, targets)) in enumerate(ADAPTERS.items()):
        made = trained(request.param, method, targets)
        with torch.no_grad():
            for parameter in made.adapters.head_parameters().values():
                parameter += number  # so that heads differ
            logits[name] = made.net(TOKENS).logits
        checkpoint.save(
            made.adapters, tmp_path / name, backbone={"source": "", "fingerprint": "x"}, extra={}
        )
        several.add(name, made.adapters.method, tmp_path / name, seed=0)
    return several, logits


def test_each_adapter_equals_the_adapter_alone(adapted_model):
    several, logits = adapted_model
    for name in ("two", None, "one", "three", "two", "four", "five", "six"):
        with torch.no_grad(), several.using(name) as model:
            torch.testing.assert_close(model(TOKENS).logits, logits[name], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        # outside of the context no adapter is selected
        assert torch.equal(several.model(TOKENS).logits, logits[None])


def test_each_row_selects_an_adapter(adapted_model):
    several, logits = adapted_model
    for rows in (["one", "two"], ["three", None], ["two", "two"], ["four", "five"], ["six", "two"]):
        with torch.no_grad(), several.using(rows) as model:
            actual = model(TOKENS).logits
        for row, name in enumerate(rows):
            torch.testing.assert_close(actual[row], logits[name][row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["two", "four"])
def test_merging_is_undone_to_the_bit(adapted_model, name):
    several, logits = adapted_model
    before = {key: parameter.clone() for key, parameter in several.model.named_parameters()}
    with torch.no_grad(), several.merged(name) as model:
        torch.testing.assert_close(model(TOKENS).logits, logits[name], rtol=1e-4, atol=1e-5)
    assert all(
        torch.equal(parameter, before[key]) for key, parameter in several.model.named_parameters()
    )


def test_generation_with_beams_selects_by_row(trained, fresh, tmp_path):
    several, alone = MultiAdapterModel(fresh("llama", "text"), "x"), {}
    options = {
        "do_sample": False,
        "num_beams": 3,
        "max_new_tokens": 6,
        "use_cache": True,
        "pad_token_id": 0,
    }
    for name, (method, targets) in ADAPTERS.items():
        made = trained("llama", method, targets, kind="text")
        checkpoint.save(
            made.adapters, tmp_path / name, backbone={"source": "", "fingerprint": "x"}, extra={}
        )
        several.add(name, made.adapters.method, tmp_path / name, seed=0)
        alone[name] = made.net.generate(TOKENS, **options)
    with several.using(["three", "two"]) as model:
        actual = model.generate(TOKENS, **options)
    assert actual[0].tolist() == alone["three"][0].tolist()
    assert actual[1].tolist() == alone["two"][1].tolist()


def test_a_refusal_leaves_the_model_unchanged(adapted_model, trained, tmp_path):
    several, logits = adapted_model
    names = set(dict(several.model.named_modules()))
    made = trained("bert", "lora")
    checkpoint.save(
        made.adapters, tmp_path / "foreign", backbone={"source": "", "fingerprint": "y"}, extra={}
    )
    for name, method, message in [
        ("one", made.adapters.method, "there is an adapter one already"),
        ("new", Full(), "is not an update of linear layers"),
        ("new", made.adapters.method, "trained on another backbone"),
        ("new", LoRA(rank=2, targets=["nowhere"]), "nowhere"),
    ]:
        with pytest.raises(ValueError, match=message):
            several.add(name, method, tmp_path / "foreign", seed=0)
    assert set(dict(several.model.named_modules())) == names
    with (
        pytest.raises(ValueError, match="there is no adapter seven: choose among one, two, three"),
        several.using("seven"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="3 adapters were chosen for a batch of 2 rows"),
        several.using(["one"] * 2 + [None]),
    ):
        several.model(TOKENS)
    with pytest.raises(RuntimeError, match="carries adapters already"):
        MultiAdapterModel(several.model, "x")
    with torch.no_grad(), several.using("one") as model:
        torch.testing.assert_close(model(TOKENS).logits, logits["one"], rtol=1e-4, atol=1e-5)
