"""A method with one trained vector for the whole model."""

import copy
import pickle

import adapter_zoo as zoo
import pytest
import torch
from safetensors.torch import load_file
from subspace_method import Subspace
from torch.func import functional_call

from rlora.adapters import checkpoint, inject
from rlora.adapters.multi_adapter import MultiAdapterModel
from rlora.regularizers.base import Step
from rlora.regularizers.pac_bayes import PACBayes

MODELS = list(zoo.TARGETS)


def adapted(model="bert", seed=0, amount=0.5):
    net = zoo.build(model)
    method = Subspace(rank=3, targets=zoo.TARGETS[model])
    adapters = inject(net, method, seed=seed, head=zoo.HEADS[model])
    zoo.perturb(adapters.adapter_parameters(), amount)
    return net, adapters


def theta_of(adapters):
    return adapters.adapter_parameters()["shared.theta"]


@pytest.mark.parametrize("model", MODELS)
def test_one_vector_trains_for_the_whole_model(model):
    net, adapters = adapted(model, amount=0.0)
    assert torch.equal(zoo.logits(net), zoo.logits(zoo.build(model)))
    assert list(adapters.adapter_parameters()) == ["shared.theta"]
    assert adapters.report().adapter == 5
    trained = {id(p) for p in net.parameters() if p.requires_grad}
    head = {id(p) for p in adapters.head_parameters().values()}
    assert trained - head == {id(theta_of(adapters))}
    zoo.logits(net).square().sum().backward()
    assert theta_of(adapters).grad.any()


def test_the_state_holds_the_vector_once():
    net, _ = adapted()
    names = [name for name in net.state_dict() if name.endswith("theta")]
    assert names == ["rlora_shared.theta"]
    other, _ = adapted(amount=0.0)
    other.load_state_dict(net.state_dict())
    assert torch.equal(zoo.logits(other), zoo.logits(net))


@pytest.mark.parametrize("model", MODELS)
def test_merging_and_unwrapping(model):
    net, adapters = adapted(model)
    expected = zoo.logits(net)
    with adapters.merged():
        torch.testing.assert_close(zoo.logits(net), expected, rtol=1e-3, atol=2e-5)
    assert torch.equal(zoo.logits(net), expected)
    plain = adapters.unwrap()
    torch.testing.assert_close(zoo.logits(plain), expected, rtol=1e-3, atol=2e-5)
    assert set(plain.state_dict()) == set(zoo.build(model).state_dict())


def test_a_file_holds_the_vector_and_loads(tmp_path):
    net, adapters = adapted()
    size = checkpoint.save(adapters, tmp_path / "adapter")
    held = load_file(tmp_path / "adapter" / checkpoint.ADAPTER_FILE)
    assert list(held) == ["shared.theta"]
    assert size < 500
    other, fresh = adapted(amount=0.0)
    checkpoint.load(fresh, tmp_path / "adapter")
    assert torch.equal(zoo.logits(other), zoo.logits(net))
    with pytest.raises(ValueError, match="another random structure"):
        checkpoint.load(adapted(seed=1)[1], tmp_path / "adapter")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_has_a_vector_of_its_own(duplicate):
    net, adapters = adapted()
    expected = zoo.logits(net)
    other = duplicate(adapters)
    assert torch.equal(zoo.logits(other.model), expected)
    zoo.perturb(other.adapter_parameters(), 0.5, seed=3)
    assert not torch.allclose(zoo.logits(other.model), expected)
    assert torch.equal(zoo.logits(net), expected)


def test_casts_reach_the_vector_and_functional_call_replaces_it():
    net, _ = adapted()
    expected = zoo.logits(net)
    half = zoo.logits(copy.deepcopy(net).to(torch.bfloat16))
    torch.testing.assert_close(half.float(), expected, rtol=0.15, atol=0.15)
    theta = torch.zeros(5)
    start = functional_call(net, {"rlora_shared.theta": theta}, (zoo.token_ids(),)).logits
    torch.testing.assert_close(start, zoo.logits(zoo.build("bert")))
    assert torch.equal(zoo.logits(net), expected)


def test_a_posterior_samples_the_vector():
    net, adapters = adapted()
    expected = zoo.logits(net)
    regularizer = PACBayes(sigma_adapter=0.5, sigma_head=1e-6)
    regularizer.prepare(net, adapters.parameter_groups(), 5)
    assert regularizer.posterior.mean("adapter").shape == (5,)
    with regularizer.perturbed(Step(seed=1)):
        loss = zoo.logits(net).square().sum()
        loss.backward()
    assert (loss - expected.square().sum()).abs() > 1e-3
    assert regularizer.posterior.rho["adapter"].grad.any()
    assert theta_of(adapters).grad.any()
    assert torch.equal(zoo.logits(net), expected)


def test_the_meta_device_counts_it():
    with torch.device("meta"):
        net = type(zoo.build("bert"))(zoo.build("bert").config)
    adapters = inject(net, Subspace(rank=3, targets=["q"]))
    assert adapters.digest == ""
    assert adapters.report().adapter == 5
    assert theta_of(adapters).is_meta


def test_a_model_of_several_adapters_refuses_it_in_one_sentence(tmp_path):
    _, adapters = adapted()
    checkpoint.save(adapters, tmp_path / "adapter")
    several = MultiAdapterModel(zoo.build("bert"), adapters.fingerprint)
    before = set(dict(several.model.named_modules()))
    with pytest.raises(ValueError, match="Subspace trains parameters of the whole model") as caught:
        several.add("one", adapters.method, tmp_path / "adapter", seed=0)
    assert len(str(caught.value).splitlines()) == 1
    assert set(dict(several.model.named_modules())) == before


def test_updates_of_different_modules_are_refused():
    class Two(Subspace):
        def build(self, sites, source):
            return super().build(sites[:1], source) + super().build(sites[1:], source)

    net = zoo.build("bert")
    with pytest.raises(RuntimeError, match="share one model-level module"):
        inject(net, Two(rank=3))
    assert all(p.requires_grad for p in net.parameters())


def test_a_run_trains_and_resumes_it(tiny_execution, tiny_run, tmp_path, monkeypatch):
    from rlora.adapters import lora

    monkeypatch.setattr(
        lora, "LoRA", Subspace
    )  # `_target_` of a config names modules of rlora only
    options = ("adapter.rank=2", "optimizer.lr=0.05", "~adapter.rank_stabilized", "adapter=lora")
    parts, record = tiny_execution(*options, folder=tmp_path / "run")
    assert record.parameters.adapter == 5
    theta = theta_of(parts.adapters)
    assert theta.any()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)["state_dict"]
    assert [name for name in state if "theta" in name] == ["model.rlora_shared.theta"]
    tiny_run(f"ckpt_path={last}", "trainer.max_epochs=3", folder=tmp_path / "resumed")


class TwiceRegistered(Subspace):
    """Registers the shared vector as a child of every update instead of sharing its module."""

    def build(self, sites, source):
        updates = super().build(sites, source)
        for update in updates:
            update.theta = updates[0].shared.theta
        return updates


def test_a_parameter_that_several_updates_hold_is_refused():
    net = zoo.build("bert")
    adapters = inject(net, TwiceRegistered(rank=3, targets=zoo.TARGETS["bert"]))
    with pytest.raises(RuntimeError, match=r"pass its module to Adapter\.share"):
        adapters.adapter_parameters()
