"""Several adapters on one backbone: per call and per row, each equals the adapter alone."""

import pytest
import torch

from rlora.adapters import checkpoint, inject
from rlora.adapters.full import Full
from rlora.adapters.lora import LoRA
from rlora.adapters.multi_adapter import MultiAdapterModel
from rlora.ops.fingerprint import fingerprint

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


HEAD = ["classifier.weight", "classifier.bias"]
POOLER = ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]


@pytest.fixture
def saved(fresh, tmp_path):
    """Function (head): folder of a LoRA that was trained with this head, and its logits."""

    def save(head=HEAD):
        net = fresh("bert")
        adapters = inject(net, LoRA(rank=2), head=head)
        with torch.no_grad():
            for parameter in (
                *adapters.adapter_parameters().values(),
                *adapters.head_parameters().values(),
            ):
                parameter += 0.1
            logits = net(TOKENS).logits
        checkpoint.save(adapters, tmp_path / "saved")
        return tmp_path / "saved", logits

    return save


def empty(net):
    return MultiAdapterModel(net, fingerprint(net, HEAD))


@pytest.mark.parametrize("name", ["v1.0", "train", "type", "forward", "a/b", "0", "naïve model"])
def test_any_text_is_a_name_and_a_folder_may_be_text(fresh, saved, name):
    folder, logits = saved()
    several = empty(fresh("bert"))
    several.add(name, LoRA(rank=2), str(folder), seed=0)
    several.add("second", LoRA(rank=2), folder, seed=0)
    plain = fresh("bert")(TOKENS).logits
    with torch.no_grad():
        with several.using(name) as model:
            torch.testing.assert_close(model(TOKENS).logits, logits, rtol=1e-4, atol=1e-5)
        with several.using([None, name]) as model:
            mixed = model(TOKENS).logits
        with several.merged(name) as model:
            torch.testing.assert_close(model(TOKENS).logits, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed[0], plain[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed[1], logits[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["", None, 3, ["one"]])
def test_what_is_not_a_text_is_refused_and_no_layer_is_wrapped(fresh, saved, name):
    several = empty(fresh("bert"))
    modules = [module for _, module in several.model.named_modules()]
    with pytest.raises(ValueError, match="is invalid: expected a text that is not empty"):
        several.add(name, LoRA(rank=2), saved()[0], seed=0)
    assert [module for _, module in several.model.named_modules()] == modules


def test_a_failure_while_adding_leaves_the_model_unchanged(fresh, saved, monkeypatch):
    from rlora.adapters import multi_adapter

    several, calls = empty(fresh("bert")), []
    modules = [module for _, module in several.model.named_modules()]
    original = multi_adapter._adapted

    def fail_late(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise MemoryError
        return original(*arguments)

    monkeypatch.setattr(multi_adapter, "_adapted", fail_late)
    with pytest.raises(MemoryError):
        several.add("one", LoRA(rank=2), saved()[0], seed=0)
    assert several.names == []
    assert [module for _, module in several.model.named_modules()] == modules


def test_choices_without_a_meaning_are_refused(fresh, saved):
    folder, _ = saved()
    several = empty(fresh("bert"))
    with (
        pytest.raises(ValueError, match=r"no adapter one: choose among \(none\)"),
        several.using("one"),
    ):
        pass
    for name in ("one", "two"):
        several.add(name, LoRA(rank=2), folder, seed=0)
    with pytest.raises(ValueError, match=r"rows=\[\] is invalid"), several.using([]):
        pass
    with several.merged("one"):
        for other in ("two", None, ["one", "two"]):
            with pytest.raises(RuntimeError, match="one is merged"), several.using(other):
                pass
        with pytest.raises(RuntimeError, match="one is merged already"), several.merged("two"):
            pass
        with pytest.raises(RuntimeError, match="one is merged"):
            several.add("three", LoRA(rank=2), folder, seed=0)
        with several.using(["one", "one"]):
            pass
    with several.using("two"):
        pass


def test_an_adapter_may_have_trained_more_of_the_head(fresh, saved):
    folder, logits = saved([*HEAD, *POOLER])
    several = empty(fresh("bert"))
    several.add("one", LoRA(rank=2), folder, seed=0)
    with torch.no_grad(), several.using("one") as model:
        torch.testing.assert_close(model(TOKENS).logits, logits, rtol=1e-4, atol=1e-5)
    alone = inject(fresh("bert"), LoRA(rank=2), head=HEAD)
    with pytest.raises(ValueError, match=r"another head \(bert\.pooler\.dense\.bias.*here class"):
        checkpoint.load(alone, folder)


def test_the_head_of_another_task_is_named_as_such(saved, fresh):
    from rlora.models.random_init import random_model
    from trained_models import FAMILIES

    folder, _ = saved()
    two = random_model(FAMILIES["bert"], kind="classification", num_labels=2, seed=0).model
    several = empty(two.eval())
    with pytest.raises(ValueError, match="the head belongs to another task or model"):
        several.add("one", LoRA(rank=2), folder, seed=0)


@pytest.mark.parametrize("training", [False, True])
def test_layers_follow_the_mode_of_the_model(fresh, saved, training):
    several = empty(fresh("bert").train(training))
    several.add("one", LoRA(rank=2, dropout=0.5), saved()[0], seed=0)
    assert {module.training for module in several.model.modules()} == {training}
