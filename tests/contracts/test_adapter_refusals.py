"""Refusals of `checkpoint.load`, for every adapter: one sentence, and an unchanged model."""

import hashlib
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlora.adapters import checkpoint
from rlora.adapters.declared import DeclaredTensors

ADAPTERS = sorted(
    file.stem for file in (Path(__file__).parents[2] / "conf" / "adapter").glob("*.yaml")
)
MODEL = "tiny_encoder"
OTHER_CHOICES = {
    "basis": ("hadamard", "normal"),
    "transform": ("fastfood",),
    "scaling": ("alpha/(r sqrt(n))",),
}
OTHER_CHOICES["config"] = ({"peft_type": "LORA", "r": 4},)
OTHER_CHOICES["saved"] = ({"peft_type": "LORA", "r": 4, "target_modules": ["query"]},)


@pytest.fixture(params=ADAPTERS)
def adapter(request):
    return request.param


@pytest.fixture(scope="module")
def saved(adapted, move, tmp_path_factory):
    """Function (adapter): the folder of a trained adapter, written once; do not change it."""
    folders = {}

    def folder_of(adapter):
        if adapter not in folders:
            made = adapted(MODEL, adapter)
            move(made.adapters.adapter_parameters() | made.adapters.head_parameters())
            folder = tmp_path_factory.mktemp(adapter) / "adapter"
            source = {"source": made.backbone.source, "fingerprint": made.backbone.fingerprint}
            checkpoint.save(made.adapters, folder, backbone=source, extra={})
            folders[adapter] = folder
        return folders[adapter]

    return folder_of


@pytest.fixture
def copied(adapter, saved, tmp_path):
    """A copy of the folder, to damage."""
    return Path(shutil.copytree(saved(adapter), tmp_path / "adapter"))


def refused(made, folder, fingerprint=None):
    """Return the message of a refusal, which has one sentence and leaves the model unchanged."""
    before = {name: tensor.clone() for name, tensor in made.net.state_dict().items()}
    with pytest.raises(ValueError, match=r"\S") as caught:
        checkpoint.load(made.adapters, folder, fingerprint=fingerprint or made.backbone.fingerprint)
    after = made.net.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def rewritten(tensors, file):
    """Replace a file's tensors, and its digest in the manifest."""
    save_file(tensors, file)
    manifest = json.loads((file.parent / checkpoint.MANIFEST).read_text())
    manifest["sha256"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (file.parent / checkpoint.MANIFEST).write_text(json.dumps(manifest))


def trained_file(folder):
    """Return the adapter's tensor file, or the head's if the adapter has no tensors."""
    file = folder / checkpoint.ADAPTER_FILE
    return file if load_file(file) else folder / checkpoint.HEAD_FILE


def altered(made):
    """Yield each option that a file depends on, with another allowed value."""
    method = made.adapters.method
    for option in fields(method) if hasattr(method, "__dataclass_fields__") else []:
        value = getattr(method, option.name)
        if option.name in checkpoint.free_options(method):
            continue
        if isinstance(value, bool):
            yield option.name, not value
        elif isinstance(value, int | float):
            yield option.name, value // 2 if isinstance(value, int) else value / 2
        else:
            yield (
                option.name,
                next(
                    choice
                    for choice in OTHER_CHOICES[option.name]
                    if takes(method, option.name, choice)
                ),
            )


def takes(method, option, choice):
    try:
        replace(method, **{option: choice})
    except ValueError:
        return False
    return True


def regenerates(made):
    return any(
        isinstance(module, DeclaredTensors) and module.regenerated for module in made.net.modules()
    )


def test_the_right_one_loads(adapter, adapted, saved):
    made = adapted(MODEL, adapter)
    checkpoint.load(made.adapters, saved(adapter), fingerprint=made.backbone.fingerprint)
    held = load_file(saved(adapter) / checkpoint.ADAPTER_FILE) | load_file(
        saved(adapter) / checkpoint.HEAD_FILE
    )
    expected = made.adapters.saved_tensors() | made.adapters.head_parameters()
    assert all(torch.equal(held[name], expected[name]) for name in held)
    assert len(held) == len(expected)


def test_another_backbone(adapter, adapted, saved):
    message = refused(adapted(MODEL, adapter), saved(adapter), fingerprint="0" * 64)
    assert "another backbone" in message
    assert "model=" in message


def test_another_seed_of_the_backbone(adapter, adapted, saved):
    assert "another backbone" in refused(adapted(MODEL, adapter, "seed=1"), saved(adapter))


def test_another_random_structure(adapter, adapted, saved):
    made = adapted(MODEL, adapter, structure_seed=1)
    if regenerates(made):
        message = refused(made, saved(adapter))
        assert "random structure" in message
        assert "seed" in message
    else:  # all of it is in the file
        checkpoint.load(made.adapters, saved(adapter), fingerprint=made.backbone.fingerprint)


def test_another_option(adapter, adapted, saved):
    made = adapted(MODEL, adapter)
    seen = 0
    for option, value in altered(made):
        try:
            other = adapted(MODEL, adapter, **{option: value})
        except ValueError:  # it does not fit a model this small
            continue
        assert option in refused(other, saved(adapter))
        seen += 1
    assert seen >= (2 if "rank" in made.config["adapter"] else 0)


def test_another_method(adapter, adapted, saved):
    other = ADAPTERS[ADAPTERS.index(adapter) - 1]
    assert "other options of its method" in refused(adapted(MODEL, adapter), saved(other))


def test_other_targets(adapter, adapted, saved):
    made = adapted(MODEL, adapter)
    if not made.adapters.method.targets:
        pytest.skip("this method has no targets")
    for targets in (["k"], ["q"], ["q", "v", "o"]):
        refused(adapted(MODEL, adapter, targets=targets), saved(adapter))


def test_dropout_may_differ(adapter, adapted, saved):
    made = adapted(MODEL, adapter)
    if not hasattr(made.adapters.method, "dropout"):
        pytest.skip("this method has no dropout")
    made = adapted(MODEL, adapter, dropout=0.3)
    checkpoint.load(made.adapters, saved(adapter), fingerprint=made.backbone.fingerprint)


@pytest.mark.parametrize("name", [checkpoint.ADAPTER_FILE, checkpoint.HEAD_FILE])
def test_a_file_cut_short(adapter, adapted, copied, name):
    made, whole = adapted(MODEL, adapter), (copied / name).read_bytes()
    for length in (0, 4, 8, len(whole) // 2, len(whole) - 1):
        (copied / name).write_bytes(whole[:length])
        assert "damaged or cut short" in refused(made, copied)


def test_a_longer_file(adapter, adapted, copied):
    file = trained_file(copied)
    file.write_bytes(file.read_bytes() + b"\0\0\0\0")
    refused(adapted(MODEL, adapter), copied)


def test_a_flipped_bit_in_the_header(adapter, adapted, copied):
    """Flip one bit per byte of a file's header, or of a sample of bytes of a longer header."""
    made, file = adapted(MODEL, adapter), trained_file(copied)
    whole = file.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    for number, position in enumerate(range(0, end, max(1, end // 150))):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << number % 8
        file.write_bytes(damaged)
        refused(made, copied)


def test_a_flipped_bit_in_the_numbers(adapter, adapted, copied):
    file = trained_file(copied)
    damaged = bytearray(file.read_bytes())
    damaged[-3] ^= 1  # finite still
    file.write_bytes(damaged)
    assert "not the file" in refused(adapted(MODEL, adapter), copied)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite(adapter, adapted, copied, value):
    file = trained_file(copied)
    tensors = load_file(file)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] = value
    rewritten(tensors, file)
    assert name in refused(adapted(MODEL, adapter), copied)


def test_other_names_and_shapes(adapter, adapted, copied):
    made, file = adapted(MODEL, adapter), trained_file(copied)
    tensors = load_file(file)
    name = sorted(tensors)[0]
    rewritten({key: tensor for key, tensor in tensors.items() if key != name}, file)
    assert name in refused(made, copied)
    rewritten(tensors | {"foreign": torch.zeros(1)}, file)
    assert "foreign" in refused(made, copied)
    rewritten(tensors | {name: torch.zeros(tensors[name].numel() + 1)}, file)
    assert "shape" in refused(made, copied)


@pytest.mark.parametrize(
    "name", [checkpoint.ADAPTER_FILE, checkpoint.HEAD_FILE, checkpoint.MANIFEST]
)
def test_a_missing_file(adapter, adapted, copied, name):
    (copied / name).unlink()
    assert name in refused(adapted(MODEL, adapter), copied)


def test_a_missing_folder(adapter, adapted, tmp_path):
    assert "not an adapter directory" in refused(adapted(MODEL, adapter), tmp_path / "nowhere")


# the manifest, the same for all adapters

only_lora = pytest.mark.parametrize("adapter", ["lora"], indirect=True)


@only_lora
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"format": 2}', '{"format": "1"}'],
    ids=["empty", "cut", *"abcde"],
)
def test_an_invalid_manifest(adapter, adapted, copied, text):
    (copied / checkpoint.MANIFEST).write_text(text)
    assert checkpoint.MANIFEST in refused(adapted(MODEL, adapter), copied)


@only_lora
@pytest.mark.parametrize(
    ("key", "value"),
    [("backbone", None), ("backbone", "bert"), ("method", None), ("method", [1]), ("method", {})],
)
def test_a_manifest_with_a_wrong_entry(adapter, adapted, copied, key, value):
    manifest = json.loads((copied / checkpoint.MANIFEST).read_text())
    (copied / checkpoint.MANIFEST).write_text(json.dumps(manifest | {key: value}))
    refused(adapted(MODEL, adapter), copied)


@only_lora
def test_a_manifest_of_a_later_format(adapter, adapted, copied):
    manifest = json.loads((copied / checkpoint.MANIFEST).read_text())
    (copied / checkpoint.MANIFEST).write_text(
        json.dumps(manifest | {"format": checkpoint.FORMAT + 1})
    )
    assert f"format {checkpoint.FORMAT}" in refused(adapted(MODEL, adapter), copied)


@only_lora
def test_a_manifest_without_an_entry(adapter, adapted, copied):
    manifest = json.loads((copied / checkpoint.MANIFEST).read_text())
    for key in ("backbone", "method", "random_structure"):
        (copied / checkpoint.MANIFEST).write_text(
            json.dumps({k: value for k, value in manifest.items() if k != key})
        )
        refused(adapted(MODEL, adapter), copied)
