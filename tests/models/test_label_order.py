"""The head of a checkpoint: its rows follow the labels of the task, or it is not used."""

import json
import logging

import pytest
import torch

from rlora.models.label_order import rows_of_labels
from rlora.models.pretrained import load_pretrained
from rlora.models.random_init import random_model

_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": {"num_key_value_heads": 1, **_ENCODER},
}
SAVED = ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]
LABELS = ["entailment", "neutral", "contradiction"]


@pytest.mark.parametrize(
    ("saved", "labels", "rows"),
    [
        (SAVED, LABELS, [2, 1, 0]),
        (["not entailment", "Entailment"], ["entailment", "not_entailment"], [1, 0]),
        (["LABEL_0", "LABEL_1", "LABEL_2"], LABELS, [0, 1, 2]),
        (["LABEL_1", "LABEL_0"], ["negative", "positive"], [1, 0]),
        (["label 1", "label 2"], ["a", "b"], [0, 1]),
        (["1", "0"], ["0", "1"], [1, 0]),
        (["0", "1"], ["LABEL_0", "LABEL_1"], [0, 1]),
        (["NEGATIVE", "POSITIVE"], ["0", "1"], [0, 1]),
        (["NEGATIVE", "POSITIVE"], ["1", "0"], [1, 0]),
        (["POSITIVE", "NEGATIVE"], ["negative", "positive"], [1, 0]),
        ([f"LABEL_{i}" for i in range(11)], [chr(97 + i) for i in range(11)], list(range(11))),
        (["joy", "anger"], ["negative", "positive"], None),
        (["negative", "neutral"], ["negative", "positive"], None),
        (["LABEL_0", "LABEL_0"], ["a", "b"], None),
        (["a", "a"], ["a", "b"], None),
        (["a"], ["a", "b"], None),
    ],
)
def test_rows_are_matched_by_name(saved, labels, rows):
    assert rows_of_labels(saved, labels) == rows


@pytest.fixture
def checkpoint(tmp_path):
    """Function (family, names, **facts): folder of a model whose config has these label names."""

    def save(family, names, **facts):
        config = {"model_type": family, **FAMILIES[family]}
        head = {"kind": "classification", "num_labels": len(names), "labels": names}
        backbone = random_model(config, **head, seed=3)
        torch.manual_seed(0)
        for parameter in backbone.model.parameters():  # biases differ from their start values
            parameter.data.add_(0.2 * torch.randn_like(parameter))
        backbone.model.save_pretrained(tmp_path)
        backbone.processor.save_pretrained(tmp_path)
        content = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(content | facts))
        return tmp_path, backbone

    return save


def load(folder, labels, kind="classification"):
    outputs = 1 if labels is None else len(labels)
    return load_pretrained(str(folder), kind=kind, num_labels=outputs, labels=labels, seed=0)


@torch.no_grad()
def logits(backbone):
    batch = backbone.processor(["good", "terrible news"], padding=True, return_tensors="pt")
    model = backbone.model.eval()
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_with_labels_in_another_order_answers_the_same(checkpoint, family, caplog):
    folder, saved = checkpoint(family, SAVED)
    with caplog.at_level(logging.WARNING, logger="rlora"):
        backbone = load(folder, LABELS)
    torch.testing.assert_close(logits(backbone), logits(saved)[:, [2, 1, 0]])
    assert (backbone.fresh, backbone.unused_head) == ([], "")
    assert not [record for record in caplog.records if record.name.startswith("rlora")]
    assert backbone.model.config.id2label == dict(enumerate(LABELS))
    assert backbone.model.config.label2id == {name: i for i, name in enumerate(LABELS)}


def test_an_exported_head_comes_back_in_the_order_of_any_task(checkpoint, tmp_path):
    folder, _ = checkpoint("bert", SAVED)
    first = load(folder, LABELS)
    first.model.save_pretrained(tmp_path / "again")
    first.processor.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again", [name.casefold() for name in SAVED])
    torch.testing.assert_close(logits(again), logits(first)[:, [2, 1, 0]])


def test_numbered_labels_of_a_task_count_by_position_and_are_told(checkpoint, caplog):
    folder, saved = checkpoint("bert", ["NEGATIVE", "POSITIVE"])
    with caplog.at_level(logging.WARNING):
        backbone = load(folder, ["0", "1"])
    torch.testing.assert_close(logits(backbone), logits(saved))
    assert "by position: 0 = NEGATIVE, 1 = POSITIVE" in caplog.text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_with_other_labels_is_not_used(checkpoint, family, caplog):
    folder, saved = checkpoint(family, ["joy", "anger", "fear"])
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        backbone = load(folder, LABELS)
    assert torch.equal(torch.get_rng_state(), state)
    assert "the head gets new start values" in caplog.text
    assert "labels joy, anger, fear (3 outputs)" in backbone.unused_head
    assert backbone.fresh
    assert all(name.startswith(("classifier", "score")) for name in backbone.fresh)
    assert not torch.allclose(logits(backbone), logits(saved))
    torch.testing.assert_close(logits(backbone), logits(load(folder, LABELS)))


@pytest.mark.parametrize(
    ("names", "facts", "labels", "reason"),
    [
        (["a", "b", "c"], {}, ["a", "b"], "labels a, b, c (3 outputs)"),
        (["a"], {"problem_type": "multi_label_classification"}, ["a", "b"], "labels a (1 outputs)"),
        (["a", "b"], {"problem_type": "regression"}, ["a", "b"], "a regression (2 outputs)"),
        (["a"], {"problem_type": "regression"}, ["a", "b"], "a regression (1 outputs)"),
        (["a"], {"problem_type": "multi_label_classification"}, None, "labels a (1 outputs)"),
        (["a", "b"], {}, None, "labels a, b (2 outputs)"),
    ],
)
def test_a_head_for_something_else_is_not_used(checkpoint, names, facts, labels, reason):
    folder, _ = checkpoint("bert", names, **facts)
    backbone = load(folder, labels, kind="regression" if labels is None else "classification")
    assert reason in backbone.unused_head
    assert sorted(backbone.fresh) == ["classifier.bias", "classifier.weight"]


def test_the_head_of_a_regression_is_kept(checkpoint):
    folder, saved = checkpoint("bert", ["score"], problem_type=None)
    backbone = load(folder, None, kind="regression")
    assert (backbone.fresh, backbone.unused_head) == ([], "")
    torch.testing.assert_close(logits(backbone), logits(saved))


def test_without_labels_the_head_keeps_its_order(checkpoint):
    folder, saved = checkpoint("bert", SAVED)
    backbone = load_pretrained(str(folder), kind="classification", num_labels=3, seed=0)
    torch.testing.assert_close(logits(backbone), logits(saved))
    assert backbone.model.config.id2label == dict(enumerate(SAVED))


def test_a_checkpoint_without_a_head_is_no_unused_head(checkpoint, tmp_path):
    _, saved = checkpoint("bert", SAVED)
    saved.model.base_model.save_pretrained(tmp_path / "bare")
    saved.processor.save_pretrained(tmp_path / "bare")
    backbone = load(tmp_path / "bare", LABELS)
    assert backbone.unused_head == ""
    assert sorted(backbone.fresh) == ["classifier.bias", "classifier.weight"]
