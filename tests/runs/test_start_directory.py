"""A run that started from a directory of PEFT holds all it needs: the directory may go."""

import shutil

import peft
import pytest
import torch

from rlora.config.build import build
from rlora.export.__main__ import main
from rlora.runs.load import load_run

pytestmark = pytest.mark.filterwarnings("ignore")
OPTIONS = {"r": 3, "lora_alpha": 5, "bias": "lora_only", "use_rslora": True}


@pytest.fixture
def directory(tmp_path, compose):
    """Directory that PEFT wrote for the tiny encoder with three classes."""

    def write(num_labels):
        config = compose("model=tiny_encoder", folder=tmp_path / "unused").config
        net = build(config["model"], kind="classification", num_labels=num_labels, seed=0).model
        targets = {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}
        model = peft.get_peft_model(net, peft.LoraConfig(**OPTIONS, **targets))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.05
        model.save_pretrained(tmp_path / "peft")
        return tmp_path / "peft"

    return write


def test_a_run_is_loaded_exported_and_resumed_without_the_directory(
    directory, tiny_execution, tmp_path
):
    path, run = directory(2), tmp_path / "run"
    start = ("adapter=peft", f"adapter.path='{path}'")
    parts, record = tiny_execution(*start, "trainer.max_epochs=1", folder=run)
    assert record.config["adapter"]["path"] == str(path)
    shutil.rmtree(path)

    loaded = load_run(run)
    for name, parameter in parts.adapters.adapter_parameters().items():
        assert torch.equal(loaded.adapters.adapter_parameters()[name], parameter)
    assert loaded.adapters.report() == parts.adapters.report()
    assert main([str(run), "--out", str(tmp_path / "out")]) == 0
    _, scored = tiny_execution(f"ckpt_path='{run}'", "train=false", folder=tmp_path / "scored")
    assert scored.scores["test/accuracy"] == record.scores["test/accuracy"]
    more = (f"ckpt_path='{run}'", "trainer.max_epochs=2")
    _, resumed = tiny_execution(*more, folder=tmp_path / "resumed")
    assert resumed.training.epochs == 2


def test_the_head_of_another_task_is_left_out_in_training_and_refused_in_evaluation(
    directory, tiny_execution, tmp_path
):
    start = ("adapter=peft", f"adapter.path='{directory(3)}'", "trainer.max_epochs=1")
    tiny_execution(*start, folder=tmp_path / "trained")
    with pytest.raises(ValueError, match=r"holds the head of another task: choose its task with"):
        tiny_execution(*start, "train=false", folder=tmp_path / "scored")
