"""The digest of the random structure, and the site names it depends on."""

import hashlib
import os
import subprocess
import sys

import adapter_zoo as zoo
import pytest
import torch
from transformers import BertModel

from rlora.adapters import inject
from rlora.adapters.declared import declared_modules

EMPTY = hashlib.sha256(b"").hexdigest()


def digest(name, model="bert", seed=0, **changes):
    method = zoo.make(name, **({"targets": zoo.TARGETS[model]} | changes))
    return inject(zoo.build(model), method, seed=seed).digest


@pytest.mark.parametrize("model", list(zoo.TARGETS))
@pytest.mark.parametrize("name", zoo.KINDS)
def test_the_same_seed_gives_the_same_digest_and_another_another(name, model):
    assert digest(name, model) == digest(name, model)
    assert len(digest(name, model)) == 64
    assert (digest(name, model, seed=1) == digest(name, model)) == (name in zoo.UNSEEDED)


def test_all_structures_differ():
    actual = [digest(name) for name in zoo.METHODS if name not in zoo.UNSEEDED]
    # the core adds no structure, the two scalings of RandLoRA share theirs
    assert len(set(actual)) == 2 + 2 + 2 + 5 + 1
    assert EMPTY not in actual


@pytest.mark.parametrize("name", zoo.SEEDED)
def test_rank_and_targets_change_the_digest_and_alpha_does_not(name):
    size = {"num_frequencies": 5} if name == "fourierft" else {"rank": 5}
    assert digest(name, **size) != digest(name)
    assert digest(name, targets=["q"]) != digest(name)
    assert digest(name, alpha=3.0, dropout=0.1) == digest(name)


@pytest.mark.parametrize("name", zoo.UNSEEDED)
def test_some_methods_regenerate_nothing(name):
    assert digest(name) == EMPTY
    assert digest(name, seed=9, rank=2) == EMPTY


@pytest.mark.parametrize("name", zoo.SEEDED)
def test_every_regenerated_tensor_counts(name, adapt):
    from rlora.adapters.structure import structure_digest

    adapters = adapt("bert", name).adapters
    assert structure_digest(adapters.adapters) == adapters.digest
    for _, _, module in declared_modules(adapters.adapters.items()):
        for name in module.regenerated:
            buffer = module.get_buffer(name)
            before = buffer.view(-1)[-1].clone()
            buffer.view(-1)[-1] = before + 1
            assert structure_digest(adapters.adapters) != adapters.digest
            buffer.view(-1)[-1] = before
    zoo.perturb(adapters.adapter_parameters())
    assert structure_digest(adapters.adapters) == adapters.digest


@pytest.mark.parametrize("name", zoo.KINDS)
def test_sites_do_not_depend_on_the_head(name, adapt):
    bare = BertModel(zoo.build("bert").config)
    bare.load_state_dict(zoo.build("bert").bert.state_dict())
    alone = inject(bare, zoo.make(name, targets=zoo.TARGETS["bert"]))
    with_head = adapt("bert", name, moved=False).adapters
    assert list(alone.adapters) == list(with_head.adapters)
    assert next(iter(alone.adapters)) == "encoder.layer.0.attention.self.query"
    assert alone.digest == with_head.digest
    theirs = with_head.adapter_parameters()
    for n, p in alone.adapter_parameters().items():
        assert torch.equal(p, theirs[n])


@pytest.mark.parametrize("name", zoo.SEEDED)
def test_the_structure_does_not_depend_on_the_backbones_dtype(name):
    half = zoo.build("bert").to(torch.bfloat16)
    method = zoo.make(name, targets=zoo.TARGETS["bert"])
    assert inject(half, method).digest == digest(name)


@pytest.mark.parametrize("name", zoo.METHODS)
def test_the_default_dtype_does_not_change_an_adapter(name, adapt):
    expected = adapt("bert", name, moved=False).adapters
    net = zoo.build("bert")
    torch.set_default_dtype(torch.float64)
    try:
        adapters = inject(net, zoo.make(name, targets=zoo.TARGETS["bert"]))
        actual = zoo.logits(adapters.model)
    finally:
        torch.set_default_dtype(torch.float32)
    assert adapters.digest == expected.digest
    assert actual.dtype == torch.float32
    for n, parameter in expected.adapter_parameters().items():
        assert adapters.adapter_parameters()[n].dtype == parameter.dtype == torch.float32
        assert torch.equal(adapters.adapter_parameters()[n], parameter)


SCRIPT = """
import sys
import torch
from torch import nn
from rlora.adapters import inject
from rlora.adapters.nola import NOLA
from rlora.adapters.randlora import RandLoRA
from rlora.adapters.rlora import RLoRA
from rlora.adapters.vera import VeRA
torch.set_num_threads(int(sys.argv[1])), torch.manual_seed(int(sys.argv[1]))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(20, 33), nn.Linear(33, 20))])

for method in (RLoRA(rank=4, transform="fastfood", targets="all-linear"),
               NOLA(num_bases=9, targets="all-linear"),
               NOLA(num_bases=9, basis="hadamard", targets="all-linear"),
               VeRA(targets="all-linear"), RandLoRA(rank=4, basis="normal", targets="all-linear")):
    print(inject(Net(), method, seed=3).digest)
"""


def test_two_processes_agree():
    outputs = []
    for number in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": number, "OMP_NUM_THREADS": number}
        command = [sys.executable, "-c", SCRIPT, number]
        outputs.append(
            subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            ).stdout
        )
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0].split())) == 5


def test_the_meta_device_has_no_digest():
    with torch.device("meta"):
        model = BertModel(zoo.build("bert").config)
    adapters = inject(model, zoo.make("rlora-srht"))
    assert adapters.digest == ""
    assert all(
        t.is_meta for a in adapters.adapters.values() for t in (*a.parameters(), *a.buffers())
    )
