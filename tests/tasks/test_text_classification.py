"""Classification tasks on small folders: splits, loaders, loss, prediction files, errors."""

import json
import re
from types import SimpleNamespace

import pytest
import torch

from rlora.data import hub
from rlora.tasks.base import Task


def texts_of(task, tokenizer, loader):
    rows = {}
    for batch in loader:
        for index, ids in zip(batch["index"].tolist(), batch["inputs"]["input_ids"], strict=True):
            rows[index] = tokenizer.decode(ids, skip_special_tokens=True)
    return [rows[index] for index in range(len(rows))]


@pytest.fixture
def ready(build_task, rte, tokenizer, tmp_path):
    def build(name="rte", seed=0, **changes):
        task = build_task(name, path=str(rte), **changes)
        task.setup(tokenizer, seed=seed, cache_dir=tmp_path / "cache")
        return task

    return build


def test_the_task_follows_the_protocol(ready, tokenizer):
    task = ready()
    assert isinstance(task, Task)
    assert task.head() == {
        "kind": "classification",
        "num_labels": 2,
        "labels": ["entailment", "not_entailment"],
    }
    assert task.trained_modules == ("classifier", "score")
    assert (task.name, task.monitor, task.mode) == ("rte", "accuracy", "max")
    assert task.num_train_examples == 190
    facts = json.loads(json.dumps(task.describe()))
    assert facts["rows"] == {"train": 190, "validation": 10, "test": 20}
    assert (facts["source"], facts["validation"], facts["shots"]) == (
        "directory",
        "train-split",
        None,
    )
    counts = facts["label_counts"]
    assert {name: sum(rows.values()) for name, rows in counts.items()} == {
        "validation": 10,
        "test": 20,
    }
    assert list(counts["test"]) == facts["labels"]
    batch = next(iter(task.train_loader()))
    tensors = batch["inputs"] | {key: batch[key] for key in ("labels", "index")}
    assert {name: tensor.dtype for name, tensor in tensors.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids", "labels", "index"), torch.int64
    )
    assert batch["num_tokens"] == int(batch["inputs"]["attention_mask"].sum())
    assert batch["padded"] == (batch["num_tokens"] < batch["inputs"]["input_ids"].numel())
    assert "labels" not in next(iter(task.predict_loaders()["predict"]))


def test_splits_share_no_text_and_do_not_follow_the_run_seed(ready, tokenizer):
    task, other = ready(seed=0), ready(seed=1)
    train, validation = (
        texts_of(task, tokenizer, loader) for loader in (task.train_loader(), other.train_loader())
    )
    assert train == validation
    validation = texts_of(task, tokenizer, task.validation_loaders()["validation"])
    premises = [
        {re.search(r"number \d+ ", text).group() for text in texts} for texts in (train, validation)
    ]
    assert not premises[0] & premises[1]
    assert task.fingerprint == other.fingerprint != ready(split_seed=1).fingerprint
    assert [b["index"].tolist() for b in task.train_loader()] != [
        b["index"].tolist() for b in other.train_loader()
    ]


def test_setup_is_idempotent(ready, tokenizer, tmp_path, monkeypatch):
    task = ready()
    monkeypatch.setattr(type(task), "read", lambda self: pytest.fail("read twice"))
    task.setup(tokenizer, seed=0, cache_dir=tmp_path / "cache")


def test_dev_validation_and_few_shot(ready, tokenizer):
    dev = ready(validation="dev")
    assert dev.describe()["rows"] == {"train": 200, "test": 20, "validation": 20}
    assert dev.describe()["validation"] == "dev"
    few = ready(shots=16)
    assert few.describe()["rows"] == {"train": 32, "validation": 32, "test": 20}
    assert few.describe()["sample_seed"] == 13
    assert few.fingerprint != ready(shots=16, sample_seed=21).fingerprint
    some, more = ready(train_examples=20), ready(train_examples=30)
    assert (some.num_train_examples, some.describe()["train_examples"]) == (20, 20)
    assert some.describe()["rows"]["validation"] == ready().describe()["rows"]["validation"]
    assert some.fingerprint != more.fingerprint
    with pytest.raises(
        ValueError, match=r"task\.shots=4 and task\.train_examples=8 each choose the training rows"
    ):
        ready(shots=4, train_examples=8)
    with pytest.raises(ValueError, match=r"task\.shots=51 needs 102 .* to at most 50"):
        ready(shots=51)


def test_workers_give_the_same_batches(ready):
    plain, workers = (ready(num_workers=count, batch_size=16).train_loader() for count in (0, 2))
    for epoch in range(2):
        for loader in (plain, workers):
            loader.batch_sampler.set_epoch(epoch)
        for ours, theirs in zip(plain, workers, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_iterating_leaves_the_global_random_state_alone(ready):
    task = ready()
    state = torch.get_rng_state()
    for loader in (
        task.train_loader(),
        *task.validation_loaders().values(),
        *task.test_loaders().values(),
    ):
        list(loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_loss_and_decode(ready):
    task = ready()
    outputs = SimpleNamespace(logits=torch.randn(4, 2, dtype=torch.bfloat16))
    batch = {"labels": torch.tensor([0, 1, 1, 0])}
    loss = task.loss(outputs, batch)
    assert loss.dtype == torch.float32
    assert torch.allclose(
        loss, torch.nn.functional.cross_entropy(outputs.logits.float(), batch["labels"])
    )
    assert torch.equal(task.decode(outputs), outputs.logits.argmax(-1))
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        task.loss(outputs, {"labels": torch.tensor([0, 1, 2, 0])})
    with pytest.raises(ValueError, match="returns 3 logits but task rte has 2 labels"):
        task.loss(SimpleNamespace(logits=torch.zeros(4, 3)), batch)


def test_regression(build_task):
    task = build_task("stsb")
    assert task.head() == {"kind": "regression", "num_labels": 1, "labels": None}
    outputs = SimpleNamespace(logits=torch.tensor([[1.0], [2.5]], dtype=torch.float16))
    assert task.loss(outputs, {"labels": torch.tensor([1.0, 4.5])}).item() == 2.0
    assert task.decode(outputs).tolist() == [1.0, 2.5]
    assert task.decode(outputs).dtype == torch.float32
    with pytest.raises(ValueError, match=r"stsb is a regression task .* set task\.shots=null"):
        build_task("stsb", shots=16)


def test_new_metrics_have_no_state(build_task):
    task = build_task("mrpc")
    first = task.new_metrics()
    first.update(torch.tensor([1, 0, 1]), torch.tensor([1, 1, 0]))
    assert {name: round(float(value), 4) for name, value in first.compute().items()} == {
        "accuracy": 0.3333,
        "f1": 0.5,
    }
    second = task.new_metrics()
    second.update(torch.tensor([1]), torch.tensor([1]))
    assert second.compute()["accuracy"] == 1


def test_submission_files(ready, tmp_path):
    task = ready()
    path = task.write_predictions(tmp_path / "out", "predict", [0, 1, 0, 0, 1, 1, torch.tensor(1)])
    assert path.name == "RTE.tsv"
    lines = path.read_text().splitlines()
    assert lines[:3] == ["index\tprediction", "0\tentailment", "1\tnot_entailment"]
    assert len(lines) == 8
    assert task.write_predictions(tmp_path / "out", "test", [0] * 20).name == "test.tsv"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["RTE.tsv", "test.tsv"]
    with pytest.raises(ValueError, match="6 predictions for the 7 rows of rte predict"):
        task.write_predictions(tmp_path, "predict", [0] * 6)
    with pytest.raises(ValueError, match=r"Predicted class 2 is outside 0\.\.1"):
        task.write_predictions(tmp_path, "predict", [2] * 7)
    with pytest.raises(ValueError, match="rte has no split 'nowhere'"):
        task.write_predictions(tmp_path, "nowhere", [])


def test_the_search_order_of_the_files(build_task, rte, make_rte, tokenizer, tmp_path, monkeypatch):
    assert (
        build_task("rte", path=str(rte)).source()
        == build_task("rte", path=str(rte / "RTE")).source()
    )
    monkeypatch.setenv("RLORA_DATA", str(rte.parent))
    assert build_task("rte").source() == {"source": "directory", "location": str(rte / "RTE")}
    first, second = build_task("rte"), build_task("rte", path=str(tmp_path / "crlf"))
    make_rte(tmp_path / "crlf", newline="\r\n", bom="\ufeff")
    for task in (first, second):
        task.setup(tokenizer, seed=0, cache_dir=tmp_path / "cache")
    assert first.fingerprint == second.fingerprint
    (rte / "RTE" / "dev.tsv").unlink()
    assert build_task("rte").source()["source"] == "hub"
    with pytest.raises(
        ValueError, match=r"task\.path=.* has no .*RTE/dev\.tsv; set task\.path to the GLUE root"
    ):
        build_task("rte", path=str(rte)).source()


def test_without_an_unlabeled_file_there_is_no_loader(ready, rte):
    (rte / "RTE" / "test.tsv").unlink()
    assert ready().predict_loaders() == {}


def test_a_hub_row_without_a_label_is_named(monkeypatch):
    monkeypatch.setattr(hub, "load_split", lambda *_: {"a": ["x", "y"], "label": [1, None]})
    with pytest.raises(ValueError, match=r"nyu-mll/glue@.*/rte, train: row 2 has no label"):
        hub.read_hub("rte", "train", text=["a"], labeled=True)


@pytest.mark.parametrize(
    ("name", "row", "target"),
    [
        ("rte", {"label": "not_entailment"}, 1),
        ("rte", {"label": ""}, None),
        ("rte", {}, None),
        ("sst2", {"label": 1}, 1),
        ("mrpc", {"Quality": "1", "label": "x"}, 1),
        ("cola", {"label": "0"}, 0),
        ("stsb", {"score": 2.5}, 2.5),
    ],
)
def test_labels_of_rows_to_predict_have_the_names_of_the_files(build_task, name, row, target):
    assert build_task(name).row_target(row, "in") == target


def test_predicted_rows_are_scored_by_the_metrics_of_the_task(build_task):
    task = build_task("mrpc")
    scores = task.score_rows([()] * 4, [1, 1, 0, 0], ["1", "0", "0", "1"]).values
    assert scores == pytest.approx({"accuracy": 0.5, "f1": 0.5})
    scores = build_task("stsb").score_rows([()] * 3, [0.0, 1.0, 5.0], [2.0, 3.0, 7.0]).values
    assert scores == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    with pytest.raises(ValueError, match=r"in, line 2: label 'maybe', expected one of"):
        build_task("rte").row_target({"label": "maybe"}, "in, line 2")


def test_hub_rows(build_task, tokenizer, tmp_path, monkeypatch):
    monkeypatch.delenv("RLORA_DATA", raising=False)
    requested = []

    def rows(subset, split):
        requested.append(split)
        count = 60 if split == "train" else 9
        texts = [f"{split} {i}" for i in range(count)]
        labels = [-1] * count if split.startswith("test") else [i % 3 for i in range(count)]
        return {"premise": texts, "hypothesis": texts, "label": labels}

    monkeypatch.setattr(hub, "load_split", rows)
    task = build_task("mnli")
    task.setup(tokenizer, seed=0, cache_dir=tmp_path)
    assert list(task.test_loaders()) == ["test", "test_mismatched"]
    assert list(task.validation_loaders()) == ["validation"]
    assert task.describe()["location"] == f"nyu-mll/glue@{hub.HUB_REVISION}/mnli"
    assert requested == ["train", "validation_matched", "validation_mismatched"]
    assert list(task.predict_loaders()) == ["predict", "predict_mismatched"]
    path = task.write_predictions(tmp_path, "predict_mismatched", [2] * 9)
    assert (path.name, path.read_text().split()[-1]) == ("MNLI-mm.tsv", "contradiction")


def test_an_unreachable_hub_raises_one_sentence(build_task, monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    monkeypatch.delenv("RLORA_DATA", raising=False)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # restored after the test
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"set task\.path or the environment variable RLORA_DATA"):
        build_task("rte").read()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "task.batch_size=0"),
        ({"validation": "test"}, "set task.validation to train or dev"),
        ({"validation_fraction": 1.5}, "task.validation_fraction=1.5"),
        ({"monitor": "f1"}, "task.monitor=f1 is no metric of rte; use ['accuracy']"),
        ({"mode": "up"}, "task.mode=up"),
        ({"shots": 0}, "task.shots=0"),
        ({"train_examples": 0}, "task.train_examples=0"),
        ({"labels": None}, "task.labels or task.score_range"),
        ({"groups": ["genre"]}, "task.groups names ['genre']"),
        ({"incomplete_rows": "drop"}, "error or skip"),
        ({"num_workers": -1}, "task.num_workers=-1"),
    ],
)
def test_invalid_settings_raise(build_task, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_task("rte", **changes)


def test_max_length_above_the_limit_of_the_model_raises(build_task, rte, tokenizer, tmp_path):
    task = build_task("rte", path=str(rte), max_length=1024)
    with pytest.raises(ValueError, match=r"task\.max_length=1024 is more than the \d+ tokens"):
        task.setup(tokenizer, seed=0, cache_dir=tmp_path)
    with pytest.raises(RuntimeError, match=r"call setup\(\) first"):
        task.train_loader()


def test_training_rows_in_the_validation_set_are_counted(ready):
    task = ready()
    assert task.train_rows_in_validation() == 0
    validation = ready(validation="dev").prepared.examples["validation"]
    task.prepared.examples["validation"] = task.prepared.examples["train"].take([3, 5, 5])
    assert task.train_rows_in_validation() == 2
    task.prepared.examples["validation"] = validation
    assert task.train_rows_in_validation() == 0
