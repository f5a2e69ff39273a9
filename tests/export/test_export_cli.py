"""python -m rlora.export: writes a run in every format, or fails with one sentence and no file."""

import functools
import json
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from rlora.config.build import build
from rlora.export.__main__ import main
from rlora.export.hub import push
from rlora.export.merged import make_savable
from rlora.runs.load import load_run

pytestmark = pytest.mark.filterwarnings("ignore")
ADAPTERS = {
    "lora": [],
    "nola": ["adapter.num_bases=4"],
    "randlora": ["adapter.rank=8"],
    "peft": [],
}


@pytest.fixture(scope="module")
def runs(tiny_run, tmp_path_factory):
    """Function (adapter): the folder of a finished run, which is trained once."""

    @functools.cache
    def folder_of(adapter):
        folder = tmp_path_factory.mktemp(adapter) / "run"
        overrides = [f"adapter={adapter}", "optimizer.lr=0.02", "trainer.max_epochs=1"]
        tiny_run(*overrides, *ADAPTERS[adapter], folder=folder)
        return folder

    return folder_of


@pytest.fixture(scope="module")
def loaded(runs):
    """Function (adapter): the run, the inputs of two texts, and the logits of the run for them."""

    @functools.cache
    def load(adapter):
        run = load_run(runs(adapter))
        batch = run.backbone.processor(["good", "so and so"], padding=True, return_tensors="pt")
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return SimpleNamespace(run=run, inputs=inputs, logits=logits(run.backbone.model, inputs))

    return load


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_peft_export_computes_the_logits_of_the_run(runs, loaded, tmp_path, capsys, adapter):
    out = tmp_path / "out"
    assert main([str(runs(adapter)), "--format", "peft", "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"written: {out}\n")
    expected = loaded(adapter)
    run = expected.run
    base = build(
        run.config["model"],
        kind="classification",
        num_labels=2,
        seed=run.config["seed"],
    ).model
    model = PeftModel.from_pretrained(base.eval(), out).eval()
    torch.testing.assert_close(
        logits(model, expected.inputs), expected.logits, rtol=1e-4, atol=1e-5
    )
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft")
    assert f"| test/accuracy | {run.record.scores['test/accuracy']:.4f} |" in card
    assert json.loads((out / "adapter_config.json").read_text())["modules_to_save"] == [
        "classifier"
    ]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_merged_export_computes_the_logits_of_the_run(runs, loaded, tmp_path, adapter):
    out = tmp_path / "out"
    assert main([str(runs(adapter) / "adapter"), "--format", "merged", "--out", str(out)]) == 0
    expected = loaded(adapter)
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    torch.testing.assert_close(
        logits(model, expected.inputs), expected.logits, rtol=1e-4, atol=1e-5
    )


def test_truncation_prints_what_is_kept_and_what_is_lost(runs, tmp_path, capsys):
    full, low = tmp_path / "full", tmp_path / "low"
    assert main([str(runs("randlora")), "--rank", "32", "--out", str(full)]) == 0
    output = capsys.readouterr().out
    assert "Truncated to rank 32: 100.00 % of the squared norm of dW is kept." in output
    assert "test/accuracy: " in output
    assert main([str(runs("randlora")), "--rank", "1", "--no-evaluate", "--out", str(low)]) == 0
    output = capsys.readouterr().out
    assert 0 < float(output.partition("rank 1: ")[2].partition(" %")[0]) < 100
    assert "accuracy" not in output
    config = json.loads((low / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out", "{out}"], "nowhere is invalid: expected a run folder"),
        (["{run}", "--out", "{run}"], "exists already"),
        (
            ["{run}", "--format", "merged", "--rank", "2", "--out", "{out}"],
            "--rank 2 is invalid: expected 1 or more, with --format peft",
        ),
        (["{run}", "--rank", "0", "--out", "{out}"], "--rank 0 is invalid"),
    ],
)
def test_an_impossible_export_fails_with_one_sentence_and_leaves_no_files(
    runs, tmp_path, capsys, arguments, message
):
    folders = {"run": runs("lora"), "out": tmp_path / "out"}
    assert main([argument.format(**folders) for argument in arguments]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_is_uploaded_to_the_hub(tmp_path):
    calls = []
    api = SimpleNamespace(
        create_repo=lambda name, **options: (
            calls.append((name, options)) or SimpleNamespace(repo_id=f"me/{name}")
        ),
        upload_folder=lambda **options: calls.append(options),
    )
    push(tmp_path, "mine", api=api)
    assert calls[0] == ("mine", {"private": True, "exist_ok": True})
    assert (calls[1]["folder_path"], calls[1]["repo_id"]) == (str(tmp_path), "me/mine")

    def refuse(*_, **__):
        raise OSError("no route to the hub")

    with pytest.raises(
        ValueError,
        match="--push-to-hub mine failed: no route to the hub; check the name",
    ):
        push(tmp_path, "mine", api=SimpleNamespace(create_repo=refuse))


def test_a_run_scores_and_trains_an_exported_peft_adapter(runs, tiny_execution, tmp_path, caplog):
    out = tmp_path / "out"
    assert main([str(runs("lora")), "--out", str(out)]) == 0
    overrides = ("adapter=peft", f"adapter.path='{out}'")
    _, scored = tiny_execution(*overrides, "train=false", folder=tmp_path / "scored")
    assert scored.scores["test/accuracy"] == load_run(runs("lora")).record.scores["test/accuracy"]
    assert "untrained" not in caplog.text
    _, trained = tiny_execution(*overrides, "trainer.max_epochs=1", folder=tmp_path / "trained")
    assert trained.parameters.adapter == load_run(runs("lora")).record.parameters.adapter


def test_a_merged_model_keeps_its_dtype(trained, tmp_path):
    model = trained("llama", "rlora")
    model.net.to(torch.bfloat16)
    merged = model.adapters.unwrap()
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    merged.save_pretrained(tmp_path / "out")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16


def test_a_sampling_temperature_without_do_sample_is_exported(trained, tmp_path):
    model = trained("gpt2", "lora", kind="text").adapters.unwrap()
    model.generation_config.temperature = 0.6  # as Llama 2 was published
    with pytest.raises(ValueError, match="temperature"):
        model.save_pretrained(tmp_path / "refused")
    make_savable(model.generation_config)
    model.save_pretrained(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (saved["temperature"], saved["do_sample"]) == (0.6, True)
