"""python -m rlora.export: whole runs written in every form, or one sentence and nothing left."""

import json
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from rlora.export.__main__ import main
from rlora.export.hub import push
from rlora.runs.load import load_run

pytestmark = pytest.mark.filterwarnings("ignore")
ADAPTERS = {"lora": [], "nola": ["adapter.num_bases=4"], "randlora": ["adapter.rank=8"], "peft": []}


@pytest.fixture(scope="module")
def runs(tiny_run, tmp_path_factory):
    """Folders of finished runs by adapter, each trained once."""
    found = {}

    def folder_of(adapter):
        if adapter not in found:
            found[adapter] = tmp_path_factory.mktemp(adapter) / "run"
            words = [
                f"adapter={adapter}",
                "optimizer.lr=0.02",
                "trainer.max_epochs=1",
                *ADAPTERS[adapter],
            ]
            tiny_run(*words, folder=found[adapter])
        return found[adapter]

    return folder_of


def logits(run):
    batch = run.backbone.processor(["good", "so and so"], padding=True, return_tensors="pt")
    with torch.no_grad():
        return run.backbone.model(
            **{k: batch[k] for k in ("input_ids", "attention_mask")}
        ).logits, batch


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_peft_answers_as_the_run(runs, tmp_path, capsys, adapter):
    out = tmp_path / "out"
    assert main([str(runs(adapter)), "--format", "peft", "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"written: {out}\n")
    run = load_run(runs(adapter))
    sought, batch = logits(run)
    from rlora.config.build import build

    base = build(
        run.config["model"], kind="classification", num_labels=2, seed=run.config["seed"]
    ).model.eval()
    there = PeftModel.from_pretrained(base, out).eval()
    with torch.no_grad():
        found = there(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits
    torch.testing.assert_close(found, sought, rtol=1e-4, atol=1e-5)
    card = (out / "README.md").read_text()
    assert card.startswith("---\nbase_model:")
    assert f"| test/accuracy | {run.record.scores['test/accuracy']:.4f} |" in card
    assert json.loads((out / "adapter_config.json").read_text())["modules_to_save"] == [
        "classifier"
    ]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_merged_model_answers_as_the_run(runs, tmp_path, adapter):
    out = tmp_path / "out"
    assert main([str(runs(adapter) / "adapter"), "--format", "merged", "--out", str(out)]) == 0
    sought, batch = logits(load_run(runs(adapter)))
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    with torch.no_grad():
        found = model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits
    torch.testing.assert_close(found, sought, rtol=1e-4, atol=1e-5)


def test_a_cut_tells_what_is_kept_and_what_is_lost(runs, tmp_path, capsys):
    full, low = tmp_path / "full", tmp_path / "low"
    assert main([str(runs("randlora")), "--rank", "32", "--out", str(full)]) == 0
    told = capsys.readouterr().out
    assert "Cut to rank 32: 100.00 % of the updates' squared norm is kept." in told
    assert "test/accuracy: " in told
    assert main([str(runs("randlora")), "--rank", "1", "--no-evaluate", "--out", str(low)]) == 0
    told = capsys.readouterr().out
    assert 0 < float(told.partition("rank 1: ")[2].partition(" %")[0]) < 100
    assert "accuracy" not in told
    config = json.loads((low / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere", "--out", "{out}"], "nowhere is neither a run folder"),
        (["{run}", "--out", "{run}"], "exists already"),
        (
            ["{run}", "--format", "merged", "--rank", "2", "--out", "{out}"],
            "--rank 2 cuts the updates of",
        ),
        (["{run}", "--rank", "0", "--out", "{out}"], "--rank 0 cuts"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_left(runs, tmp_path, capsys, words, told):
    assert main([word.format(run=runs("lora"), out=tmp_path / "out") for word in words]) == 1
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_goes_to_the_hub(tmp_path):
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
        ValueError, match=r"--push-to-hub mine: the hub did not take it \(no route to the hub\)"
    ):
        push(tmp_path, "mine", api=SimpleNamespace(create_repo=refuse))


def test_a_directory_of_pefts_is_scored_and_trained_on_by_a_run(
    runs, tiny_experiment, tmp_path, caplog
):
    out = tmp_path / "out"
    assert main([str(runs("lora")), "--out", str(out)]) == 0
    words = ("adapter=peft", f"adapter.path='{out}'")
    scored = tiny_experiment(*words, "train=false", folder=tmp_path / "scored").run()
    assert scored.scores["test/accuracy"] == load_run(runs("lora")).record.scores["test/accuracy"]
    assert "untrained" not in caplog.text
    trained = tiny_experiment(*words, "trainer.max_epochs=1", folder=tmp_path / "trained").run()
    assert trained.parameters.adapter == load_run(runs("lora")).record.parameters.adapter


def test_a_merged_model_keeps_its_dtype(trained, tmp_path):
    made = trained("llama", "rlora")
    made.net.to(torch.bfloat16)
    merged = made.adapters.unwrap()
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    merged.save_pretrained(tmp_path / "out")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert again.dtype == torch.bfloat16
