"""Several adapters on one backbone: each answers as it would alone, by call and by row, and nothing is left behind."""

import pytest
import torch

from rlora.adapters import checkpoint
from rlora.adapters.full import Full
from rlora.adapters.lora import LoRA
from rlora.adapters.multi_adapter import MultiAdapterModel

TOKENS = torch.arange(20).reshape(2, 10) + 5
CHOSEN = {
    "one": ("lora", ("q", "v")),
    "two": ("rlora", "all-linear"),
    "three": ("randlora", ("q",)),
    "four": ("dora", ("q", "v")),
    "five": ("lora_xs", "all-linear"),
    "six": ("fourierft", ("v",)),
}


@pytest.fixture(params=["bert", "gpt2", "llama"])
def filled(request, trained, fresh, tmp_path):
    """A bank of three adapters on a family, and how each answered where it was trained."""
    bank = MultiAdapterModel(fresh(request.param), "x")
    answers = {None: fresh(request.param)(TOKENS).logits}
    for number, (name, (method, targets)) in enumerate(CHOSEN.items()):
        made = trained(request.param, method, targets)
        with torch.no_grad():
            for parameter in made.adapters.head_parameters().values():
                parameter += number  # so that heads differ
            answers[name] = made.net(TOKENS).logits
        checkpoint.save(
            made.adapters, tmp_path / name, backbone={"source": "", "fingerprint": "x"}, extra={}
        )
        bank.add(name, made.adapters.method, tmp_path / name, seed=0)
    return bank, answers


def test_each_answers_as_alone(filled):
    bank, answers = filled
    for name in ("two", None, "one", "three", "two", "four", "five", "six"):
        with torch.no_grad(), bank.using(name) as model:
            torch.testing.assert_close(model(TOKENS).logits, answers[name], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(bank.model(TOKENS).logits, answers[None])  # outside, the backbone alone


def test_each_row_has_its_own(filled):
    bank, answers = filled
    for rows in (["one", "two"], ["three", None], ["two", "two"], ["four", "five"], ["six", "two"]):
        with torch.no_grad(), bank.using(rows) as model:
            found = model(TOKENS).logits
        for row, name in enumerate(rows):
            torch.testing.assert_close(found[row], answers[name][row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["two", "four"])
def test_merging_is_undone_to_the_bit(filled, name):
    bank, answers = filled
    before = {key: parameter.clone() for key, parameter in bank.model.named_parameters()}
    with torch.no_grad(), bank.merged(name) as model:
        torch.testing.assert_close(model(TOKENS).logits, answers[name], rtol=1e-4, atol=1e-5)
    assert all(
        torch.equal(parameter, before[key]) for key, parameter in bank.model.named_parameters()
    )


def test_texts_are_generated_row_by_row_and_beam_by_beam(trained, fresh, tmp_path):
    bank, alone = MultiAdapterModel(fresh("llama", "text"), "x"), {}
    words = {
        "do_sample": False,
        "num_beams": 3,
        "max_new_tokens": 6,
        "use_cache": True,
        "pad_token_id": 0,
    }
    for name, (method, targets) in CHOSEN.items():
        made = trained("llama", method, targets, kind="text")
        checkpoint.save(
            made.adapters, tmp_path / name, backbone={"source": "", "fingerprint": "x"}, extra={}
        )
        bank.add(name, made.adapters.method, tmp_path / name, seed=0)
        alone[name] = made.net.generate(TOKENS, **words)
    with bank.using(["three", "two"]) as model:
        found = model.generate(TOKENS, **words)
    assert found[0].tolist() == alone["three"][0].tolist()
    assert found[1].tolist() == alone["two"][1].tolist()


def test_what_does_not_fit_is_refused_and_leaves_the_bank_as_it_was(filled, trained, tmp_path):
    bank, answers = filled
    names = set(dict(bank.model.named_modules()))
    made = trained("bert", "lora")
    checkpoint.save(
        made.adapters, tmp_path / "foreign", backbone={"source": "", "fingerprint": "y"}, extra={}
    )
    for name, method, told in [
        ("one", made.adapters.method, "there is an adapter one already"),
        ("new", Full(), "is not an update of linear layers"),
        ("new", made.adapters.method, "trained on another backbone"),
        ("new", LoRA(rank=2, targets=["nowhere"]), "nowhere"),
    ]:
        with pytest.raises(ValueError, match=told):
            bank.add(name, method, tmp_path / "foreign", seed=0)
    assert set(dict(bank.model.named_modules())) == names
    with (
        pytest.raises(ValueError, match="there is no adapter seven: choose among one, two, three"),
        bank.using("seven"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="3 adapters were chosen for a batch of 2 rows"),
        bank.using(["one"] * 2 + [None]),
    ):
        bank.model(TOKENS)
    with pytest.raises(RuntimeError, match="carries adapters already"):
        MultiAdapterModel(bank.model, "x")
    with torch.no_grad(), bank.using("one") as model:
        torch.testing.assert_close(model(TOKENS).logits, answers["one"], rtol=1e-4, atol=1e-5)
