"""Heads of checkpoints and of saved runs: their rows belong to the labels of the task."""

import json

import pytest

from rlora.models.label_order import final_layer, reorder
from rlora.records.record import read_record

TRAINED = ("adapter=full", "trainer.max_epochs=2", "optimizer.lr=3e-3")
EVALUATED = ("train=false", "adapter=head", "model=bert_base", "model.revision=null")


@pytest.fixture(scope="module")
def trained(tiny_execution, tmp_path_factory):
    """Folder of a run, its record, and the folder of its model with the other order of labels."""
    run, model_folder = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("model")
    parts, record = tiny_execution(*TRAINED, folder=run)
    model = parts.backbone.model
    _, layer = final_layer(model, 2)
    reorder(layer, [1, 0])
    model.config.id2label = {0: "POSITIVE", 1: "NEGATIVE"}
    model.save_pretrained(model_folder)
    parts.backbone.processor.save_pretrained(model_folder)
    return run, record, model_folder


def rename(folder, copy, names):
    """Return a copy of a model folder with other label names."""
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    config["id2label"] = {str(i): name for i, name in enumerate(names)}
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def evaluate(tiny_run, model, folder, *overrides):
    tiny_run(*EVALUATED, f"model.path='{model}'", *overrides, folder=folder)
    return read_record(folder).scores["test/accuracy"]


def test_a_checkpoint_with_another_order_has_the_same_score(tiny_run, trained, tmp_path):
    _, record, model = trained
    score = evaluate(tiny_run, model, tmp_path / "a")
    assert score == pytest.approx(record.scores["test/accuracy"])
    assert score != 0.5  # of the opposite answers too
    # without names the rows count by position: all answers are the opposite
    numbered = rename(model, tmp_path / "numbered", ["LABEL_0", "LABEL_1"])
    assert evaluate(tiny_run, numbered, tmp_path / "b") == pytest.approx(1 - score)
    assert evaluate(
        tiny_run, model, tmp_path / "c", "task.labels=[positive,negative]"
    ) == pytest.approx(score)


def test_a_checkpoint_with_other_labels_is_not_evaluated(tiny_run, trained, tmp_path):
    other = rename(trained[2], tmp_path / "other", ["joy", "anger"])
    with pytest.raises(ValueError, match=r"train=false is invalid: .* labels joy, anger"):
        evaluate(tiny_run, other, tmp_path / "run")


@pytest.mark.parametrize(
    ("train", "part"),
    [
        ("train=false", ""),
        ("train=false", "checkpoints/best.ckpt"),
        ("train=true", "adapter"),
        ("train=true", ""),
    ],
)
def test_a_saved_head_is_not_loaded_under_other_labels(tiny_run, trained, tmp_path, part, train):
    with pytest.raises(ValueError, match=r"task\.labels=.*positive.* is invalid"):
        tiny_run(
            train,
            f"ckpt_path='{trained[0] / part}'",
            "task.labels=[positive,negative]",
            "trainer.max_epochs=3",
            folder=tmp_path,
        )
