"""Damaged files load unchanged or raise the documented error.

Over 2,000 damaged files; after each refusal the model is compared with its state before.
"""

import contextlib
import json
import random
import shutil
import struct

import peft
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from rlora.adapters import checkpoint, inject
from rlora.adapters.lora import LoRA
from rlora.adapters.peft import Peft
from rlora.io.safetensors import parse_tensors
from rlora.models.random_init import random_model

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
HEAD = ["classifier.weight", "classifier.bias"]
CASES = 350  # per type of damage


def fresh():
    return random_model(BERT, kind="classification", num_labels=2, seed=0).model


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """An adapter directory, and a model to load it into."""
    folder = tmp_path_factory.mktemp("ours") / "adapter"
    made = inject(fresh(), LoRA(rank=2), head=HEAD)
    for parameter in (*made.adapter_parameters().values(), *made.head_parameters().values()):
        torch.nn.init.normal_(parameter)
    checkpoint.save(made, folder, backbone={"source": "", "fingerprint": "x"}, extra={})
    return folder, inject(fresh(), LoRA(rank=2), head=HEAD)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A directory written by PEFT."""
    folder = tmp_path_factory.mktemp("theirs") / "adapter"
    model = peft.get_peft_model(
        fresh(), peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    )
    model.save_pretrained(folder)
    return folder


def damaged(content, damage, draw):
    """Return a file's content after one type of damage."""
    content = bytearray(content)
    if damage == "bits":
        for _ in range(draw.randint(1, 8)):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif damage == "cut":
        del content[draw.randrange(len(content)) :]
    elif damage == "header":
        size = draw.choice([0, 1, 7, len(content), 2**31, 2**63 - 1, draw.randrange(2**64)])
        content[:8] = struct.pack("<Q", size)
    elif damage == "random":
        content[: draw.randint(1, 200)] = draw.randbytes(draw.randint(0, 200))
    else:  # a JSON header with nonsense values
        values = [
            0,
            -1,
            2**70,
            "F32",
            "I64",
            "BOOL",
            None,
            [],
            {},
            [0, 4],
            [4, 0],
            [0, 2**62],
            1.5,
            "../../etc/passwd",
        ]
        entry = {key: draw.choice(values) for key in ("dtype", "shape", "data_offsets")}
        header = json.dumps({draw.choice(["a", "../b", "__metadata__"]): entry}).encode()
        content[:] = struct.pack("<Q", len(header)) + header + bytes(draw.randrange(64))
    return bytes(content)


def state(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(net, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("damage", ["bits", "cut", "header", "random", "json"])
def test_a_damaged_tensor_file_is_refused(ours, tmp_path, damage):
    folder, adapters = ours
    target = shutil.copytree(folder, tmp_path / "adapter")
    draw, before = random.Random(damage), state(adapters.model)
    for number in range(CASES):
        name = draw.choice([checkpoint.ADAPTER_FILE, checkpoint.HEAD_FILE])
        content = (folder / name).read_bytes()
        changed = damaged(content, damage, draw)
        (target / name).write_bytes(changed)
        if changed != content:
            with pytest.raises(ValueError, match=rf"{name}"):
                checkpoint.load(adapters, target, fingerprint="x")
            assert same(adapters.model, before), number
        (target / name).write_bytes(content)


@pytest.mark.parametrize("damage", ["bits", "cut", "random"])
def test_a_damaged_manifest_loads_the_same_or_is_refused(ours, tmp_path, damage):
    folder, adapters = ours
    target = shutil.copytree(folder, tmp_path / "adapter")
    draw, before = random.Random(damage), state(adapters.model)
    content = (folder / checkpoint.MANIFEST).read_bytes()
    checkpoint.load(adapters, folder, fingerprint="x")
    loaded = state(adapters.model)
    for _ in range(CASES):
        adapters.model.load_state_dict(before)
        (target / checkpoint.MANIFEST).write_bytes(damaged(content, damage, draw))
        try:
            checkpoint.load(adapters, target, fingerprint="x")
        except ValueError:
            assert same(adapters.model, before)
        else:
            assert same(adapters.model, loaded)
    adapters.model.load_state_dict(before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage", ["bits", "cut", "header", "json"])
def test_a_damaged_peft_file_gives_finite_tensors_or_is_refused(theirs, damage):
    path = theirs / "adapter_model.safetensors"
    content, draw = path.read_bytes(), random.Random(damage)
    names = set(load_file(path))
    for _ in range(CASES):
        with contextlib.suppress(ValueError):
            actual = parse_tensors(damaged(content, damage, draw), path)
            assert all(
                tensor.isfinite().all() and tensor.is_floating_point() for tensor in actual.values()
            )
            assert len(actual) <= len(names) + 1


@pytest.mark.filterwarnings("ignore")
def test_a_peft_directory_loads_completely_or_not_at_all(theirs, tmp_path):
    target = shutil.copytree(theirs, tmp_path / "adapter")
    tensors = load_file(theirs / "adapter_model.safetensors")
    key = next(name for name in tensors if "lora_A" in name)
    changes = [
        {key: torch.zeros(3, 3)},
        {key: torch.full_like(tensors[key], torch.nan)},
        {key: torch.zeros(tensors[key].shape, dtype=torch.int64)},
        {"base_model.model.bert.nowhere.lora_A.weight": torch.zeros(2, 16)},
        {"base_model.model.classifier.weight": torch.zeros(5, 16)},
        {"../../outside": torch.zeros(1)},
    ]
    for change in changes:
        save_file({**tensors, **change}, target / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=r"adapter_model\.safetensors"):
            inject(fresh(), Peft(path=str(target)), head=HEAD)
    save_file(
        {name: t for name, t in tensors.items() if name != key},
        target / "adapter_model.safetensors",
    )
    with pytest.raises(ValueError, match="it lacks"):
        inject(fresh(), Peft(path=str(target)), head=HEAD)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage", ["bits", "cut", "random"])
def test_a_damaged_peft_config_loads_or_is_refused(theirs, tmp_path, damage):
    target, draw = shutil.copytree(theirs, tmp_path / "adapter"), random.Random(damage)
    content = (theirs / "adapter_config.json").read_bytes()
    for _ in range(60):  # a model each
        (target / "adapter_config.json").write_bytes(damaged(content, damage, draw))
        with contextlib.suppress(ValueError):
            inject(fresh(), Peft(path=str(target)), head=HEAD)


def test_pickles_and_deep_nesting_are_refused(ours, theirs, tmp_path):
    folder, adapters = ours
    target = shutil.copytree(folder, tmp_path / "ours")
    (target / checkpoint.MANIFEST).write_text("[" * 100_000)
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoint.load(adapters, target, fingerprint="x")
    target = shutil.copytree(theirs, tmp_path / "theirs")
    torch.save(load_file(target / "adapter_model.safetensors"), target / "adapter_model.bin")
    (target / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors does not exist"):
        inject(fresh(), Peft(path=str(target)), head=HEAD)
    (target / "adapter_model.safetensors").write_bytes((target / "adapter_model.bin").read_bytes())
    with pytest.raises(ValueError, match="damaged or cut short"):
        inject(fresh(), Peft(path=str(target)), head=HEAD)
    with pytest.raises(ValueError, match=r"holds torch\.int64"):
        parse_tensors(save({"a": torch.zeros(2, dtype=torch.int64)}), target)
