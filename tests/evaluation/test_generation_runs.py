"""Runs that generate text: training, generation, scores, export and resuming."""

import csv
import json

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlora.config.build import build
from rlora.config.job import Job
from rlora.export.__main__ import main as export
from rlora.metrics import captions
from rlora.records.record import read_record
from rlora.runs.experiment import run
from rlora.runs.predict_cli import main as predict

ADAPTERS = sorted(("lora", "rlora", "nola", "randlora", "vera", "full", "bitfit"))
OVERRIDES = (
    "trainer=cpu",
    "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false",
    "print_config=false",
    "logger=none",
    "task.max_length=120",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small E2E."""
    folder = tmp_path_factory.mktemp("data") / "e2e"
    folder.mkdir()
    names, foods = ("Aromi", "Bibimbap House", "Cotto", "Eagle"), ("pie", "rice", "pasta")
    rows = [f'"name[{n}], food[{f}]",{n} serves {f}.' for n in names for f in foods]
    splits = {
        "trainset.csv": rows[:8],
        "devset.csv": rows[8:10],
        "testset_w_refs.csv": rows[10:],
    }
    for file, part in splits.items():
        (folder / file).write_text("\n".join(["mr,ref", *part, ""]))
    return folder


@pytest.fixture
def start(compose, corpus, tmp_path, cache, monkeypatch):
    """Function of overrides: runs them in a new folder; returns score and record."""
    monkeypatch.setenv("RLORA_DATA", str(corpus.parent))
    monkeypatch.setattr(
        captions, "installed", lambda: False
    )  # METEOR's Java takes seconds and has other tests

    def started(*overrides, name="run"):
        folder = tmp_path / name
        composed = compose(*OVERRIDES, f"paths.cache='{cache}'", *overrides, folder=folder)
        job = Job(folder, composed.choices, list(overrides))
        score = run(OmegaConf.create(composed.config), job)
        return score, read_record(folder / "results.json")

    return started


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_learns_to_generate(start, tmp_path, adapter):
    score, record = start(
        "task=e2e", "model=tiny_decoder", f"adapter={adapter}", "task.decoding.max_new_tokens=4"
    )
    assert score == -record.scores["validation/perplexity"]
    assert 0 <= record.scores["test/BLEU"] <= 1
    assert record.reported == "BLEU"
    assert set(record.missing) == {"test/METEOR", "test/ROUGE_L", "test/CIDEr"}
    assert record.parameters.head == 0
    texts = [
        json.loads(line) for line in (tmp_path / "run/texts/test.jsonl").read_text().splitlines()
    ]
    assert [line["row"] for line in texts[1:]] in ([0, 1], [1, 0])
    assert (tmp_path / "run/texts/test.tsv").read_text().startswith('"MR"\t"output"\n')
    assert (tmp_path / "run/texts/test-references.txt").is_file()


def test_packing_trains_like_padding(start):
    overrides = (
        "task=e2e",
        "model=tiny_decoder",
        "adapter=lora",
        "test=false",
        "task.batch_size=4",
    )
    _, padded = start(*overrides, "task.max_length=256", name="padded")
    _, packed = start(*overrides, "task.max_length=256", "task.packing=true", name="packed")
    assert padded.training.steps == packed.training.steps
    first, second = padded.training.history[0], packed.training.history[0]
    # Dropout has another shape, so the losses are close but not equal.
    assert first["train/loss"] == pytest.approx(second["train/loss"], rel=0.02)
    assert packed.training.tokens_per_second > 0


def test_a_model_is_pretrained_exported_and_adapted(start, tmp_path):
    small = (
        "model=gpt2_mini",
        "model.config.n_embd=32",
        "model.config.n_layer=1",
        "model.vocabulary=300",
    )
    _, first = start(
        "task=e2e_text",
        *small,
        "adapter=full",
        "optimizer.lr=1e-2",
        "trainer.max_epochs=5",
        name="lm",
    )
    assert first.scores["test/perplexity"] < 300
    assert "test/BLEU" not in first.scores
    out = tmp_path / "model"
    assert export([str(tmp_path / "lm"), "--format", "merged", "--out", str(out)]) == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.transformer.wte.weight.data_ptr() == model.lm_head.weight.data_ptr()
    assert 257 < len(tokenizer) <= 300
    _, again = start("task=e2e_text", *small, f"model.path='{out}'", "train=false", name="again")
    assert again.scores["test/perplexity"] == pytest.approx(
        first.scores["test/perplexity"], rel=1e-5
    )
    _, adapted = start(
        "task=e2e", *small, f"model.path='{out}'", "adapter=lora", "task.max_length=200", name="e2e"
    )
    assert adapted.backbone["source"] == f"directory {out}"


@pytest.mark.parametrize("adapter", ["lora", "rlora", "randlora"])
def test_an_exported_model_equals_the_adapted_one(start, compose, tmp_path, adapter):
    start("task=e2e", "model=tiny_decoder", f"adapter={adapter}", "test=false", "optimizer.lr=0.1")
    out = tmp_path / "model"
    assert export([str(tmp_path / "run"), "--format", "merged", "--out", str(out)]) == 0
    exported = AutoModelForCausalLM.from_pretrained(out).eval()
    assert exported.config.use_cache

    from rlora.adapters import checkpoint, inject

    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    backbone = build(config["model"], kind="text", num_labels=0, seed=0)
    unadapted = backbone.model.eval()(torch.arange(10)[None]).logits
    adapters = inject(backbone.model, build(config["adapter"]), seed=0)
    checkpoint.load(adapters, tmp_path / "run" / "adapter", fingerprint=backbone.fingerprint)
    logits = exported(torch.arange(10)[None]).logits
    torch.testing.assert_close(
        logits, backbone.model.eval()(torch.arange(10)[None]).logits, rtol=1e-4, atol=1e-5
    )
    assert (logits - unadapted).abs().max() > 1e-3


def test_export_refuses_invalid_paths(start, tmp_path, capsys):
    assert export([str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert "expected a run folder" in capsys.readouterr().err
    (tmp_path / "there").mkdir()
    assert export([str(tmp_path), "--out", str(tmp_path / "there")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert not list((tmp_path / "there").iterdir())


def test_an_encoder_is_refused(start):
    with pytest.raises(ValueError, match="a bert model is an encoder and generates no text"):
        start("task=e2e", "model=tiny_encoder", "adapter=lora")


@pytest.mark.parametrize("how", ["int8", "nf4"])
def test_a_quantized_backbone_trains_generates_resumes_and_exports(start, tmp_path, caplog, how):
    overrides = (
        "task=e2e",
        "model=tiny_llama",
        "adapter=rlora",
        "optimizer.lr=0.05",
        "task.decoding.max_new_tokens=4",
    )
    _, record = start(*overrides, f"model.quantize={how}")
    _, again = start("train=false", f"ckpt_path='{tmp_path / 'run'}'", name="again")
    assert again.scores["test/BLEU"] == record.scores["test/BLEU"]
    assert again.config["model"]["quantize"] == how  # as the saved run had it
    _, more = start("trainer.max_epochs=2", f"ckpt_path='{tmp_path / 'run'}'", name="more")
    assert len(more.training.history) == 2
    out = tmp_path / "model"
    assert export([str(tmp_path / "run"), "--format", "merged", "--out", str(out)]) == 0
    assert "it is written dequantized" in caplog.text
    assert not list(AutoModelForCausalLM.from_pretrained(out).parameters())[1].isnan().any()


@pytest.mark.parametrize("objective", ["elbo", "pac_tuning"])
def test_a_posterior_learns_to_generate(start, objective):
    overrides = (
        "task=e2e",
        "model=tiny_decoder",
        "adapter=rlora",
        "task.decoding.max_new_tokens=4",
    )
    _, record = start(*overrides, "regularizer=pac_bayes", f"regularizer.objective={objective}")
    assert record.training.history[0]["train/kl"] > 0
    assert "test/BLEU" in record.scores


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("regularizer=pac_bayes",), r"task=e2e is invalid .* expected a loss in \[0, 1\]"),
        (("regularizer=pac_bayes", "regularizer.objective=elbo", "certify=true"), "certif"),
        (("task.max_length=4",), r"trainset\.csv, line 2.*4 tokens|max_length"),
        (("task.decoding.max_new_tokens=500",), r"testset_w_refs\.csv, line 2: its prompt has"),
    ],
)
def test_invalid_combinations_raise(start, overrides, message):
    with pytest.raises(ValueError, match=message):
        start("task=e2e", "model=tiny_decoder", "adapter=lora", *overrides)


def test_a_run_without_training_scores_the_validation_set(start):
    _, record = start(
        "task=e2e",
        "model=tiny_decoder",
        "adapter=head",
        "train=false",
        "task.decoding.max_new_tokens=4",
    )
    assert record.scores["validation/perplexity"] > 1
    assert record.parameters.adapter == 0
    assert "test/BLEU" in record.scores


def test_a_trained_run_generates_texts_for_new_rows(start, tmp_path, capsys):
    start("task=e2e", "model=tiny_decoder", "adapter=vera", "task.decoding.max_new_tokens=6")
    file, output = tmp_path / "meanings.txt", tmp_path / "output.jsonl"
    texts = tmp_path / "run" / "texts"
    with (texts / "test.tsv").open() as table:
        meanings = [row["MR"] for row in csv.DictReader(table, delimiter="\t")]
    file.write_text("\n".join(meanings))
    overrides = [f"run={tmp_path / 'run'}", f"input={file}", f"output={output}"]
    assert predict(overrides) == 0
    generated = [json.loads(line) for line in output.read_text().splitlines()]
    recorded = [json.loads(line) for line in (texts / "test.jsonl").read_text().splitlines()[1:]]
    assert {row["text"] for row in generated} == {row["text"] for row in recorded}
    file.write_text("no slots here")
    assert predict(overrides) == 1
    assert "is not a list of slots" in capsys.readouterr().err
