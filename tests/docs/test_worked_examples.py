"""The worked examples of the documentation run as they are printed."""

import importlib.util
import re
import sys

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from rlora import inject
from rlora.config.build import build
from rlora.models.random_init import random_model
from rlora.records.record import read_record

TINY = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def blocks(root, page, language):
    text = (root / "docs" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def module(root, tmp_path, monkeypatch):
    """Function (page, name): import the first Python block of a page under a module name."""

    def load(page, name):
        file = tmp_path / f"{name.rpartition('.')[2]}.py"
        file.write_text(blocks(root, page, "python")[0])
        spec = importlib.util.spec_from_file_location(name, file)
        loaded = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, loaded)
        spec.loader.exec_module(loaded)
        return loaded

    return load


def backbone():
    return random_model(TINY, kind="classification", num_labels=2, seed=0)


def logits(model):
    return model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits


def test_the_adapter_starts_at_zero_trains_and_merges(root, module):
    module("extending/adapter.md", "rlora.adapters.row_scale")
    (text,) = blocks(root, "extending/adapter.md", "yaml")
    loaded = backbone()
    model = loaded.model.eval()
    before = logits(model)
    method = build(yaml.safe_load(text)["adapter"])
    adapters = inject(model, method, head=loaded.head_parameters(("classifier",)))
    assert adapters.report().adapter == 2 * 2 * 32
    assert torch.equal(logits(model), before)
    with torch.no_grad():
        for parameter in adapters.adapter_parameters().values():
            parameter.add_(0.1)
    changed = logits(model)
    assert not torch.allclose(changed, before)
    with adapters.merged():
        assert torch.allclose(logits(model), changed, atol=1e-5)


def test_the_regularizer_trains_a_run(root, module, tiny_job, tmp_path):
    from rlora.runs.experiment import run

    module("extending/regularizer.md", "rlora.regularizers.l2_start")
    (text,) = blocks(root, "extending/regularizer.md", "yaml")
    config, job = tiny_job(folder=tmp_path / "run")
    config["regularizer"] = yaml.safe_load(text)
    run(OmegaConf.create(config), job)
    assert read_record(tmp_path / "run").config["regularizer"]["strength"] == 1.0
    with pytest.raises(ValueError, match=r"regularizer\.strength"):
        build(yaml.safe_load(text) | {"strength": -1})


def test_the_task_of_your_own_files_trains_a_run(root, compose, tiny_job, tmp_path):
    from rlora.runs.experiment import run

    (text,) = blocks(root, "your_data.md", "yaml")
    example = yaml.safe_load(text)
    shared = yaml.safe_load((root / "conf" / "task" / "_glue.yaml").read_text())
    folder = tmp_path / "reviews"
    folder.mkdir()
    for name, rows in {"train.tsv": 120, "dev.tsv": 20}.items():
        lines = [f"text number {row} of {name}\t{row % 5 + 1}" for row in range(rows)]
        (folder / name).write_text("\n".join(["review\tstars", *lines]) + "\n")
    config, job = tiny_job("task.batch_size=20", folder=tmp_path / "run")
    config["task"] = shared["task"] | example["task"] | {"path": str(folder), "batch_size": 20}
    run(OmegaConf.create(config), job)
    record = read_record(tmp_path / "run")
    assert record.data["rows"]["test"] == 20
    assert "test/accuracy" in record.scores


def test_the_task_family_reads_json_lines(module, tmp_path):
    from torchmetrics.classification import BinaryAccuracy

    family = module("extending/task.md", "rlora.tasks.json_lines").JSONLines
    rows = [f'{{"text": "number {i}", "label": "{"ab"[i % 2]}"}}' for i in range(60)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    options = {"name": "mine", "monitor": "accuracy", "labels": ["a", "b"], "max_length": 64}
    task = family(metrics={"accuracy": BinaryAccuracy()}, path=tmp_path, **options)
    task.setup(backbone().processor, seed=0, cache_dir=tmp_path / "cache")
    assert task.num_train_examples == 57
    (tmp_path / "test.jsonl").write_text('{"text": "x", "label": "c"}\n')
    with pytest.raises(ValueError, match=r"test\.jsonl, line 1: label='c' is invalid"):
        task.read()
