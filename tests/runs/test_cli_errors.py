"""Invalid command lines: one sentence, a non-zero exit status, and no record."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from rlora.records.record import RECORD_FILE
from rlora.runs.parent import COMMAND

ROOT = Path(__file__).parents[2]
TINY = "model=tiny_encoder"


@pytest.fixture
def error_of(monkeypatch, tmp_path, capsys):
    """Function (*overrides): the error that train.py prints, run in this process."""
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_script", script)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.delenv("RLORA_DATA", raising=False)
    monkeypatch.setenv(COMMAND, str(os.getpid()))  # main would set it for the whole test process
    spec.loader.exec_module(script)

    def run(*overrides):
        common = [
            f"paths.outputs={tmp_path}",
            "print_config=false",
            "trainer.enable_progress_bar=false",
        ]
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *overrides, *common])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as caught:
            script.main()
        assert isinstance(caught.value.code, str), "the exit status is that of success"
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        assert "Error executing job" not in printed  # Hydra's own line
        assert not list(tmp_path.rglob(RECORD_FILE))
        sentence = caught.value.code
        assert sentence.startswith("error: ")
        assert "\n" not in sentence
        return sentence

    yield run
    GlobalHydra.instance().clear()
    os.environ.pop("HYDRA_FULL_ERROR", None)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["adapter=lroa"], ["adapter=lroa", "lora"]),
        (["task=mlni"], ["task=mlni", "mnli"]),
        (["model=robertabase"], ["roberta_base"]),
        (["regularizer=pacbayes"], ["pac_bayes"]),
        (["adapter.rnk=4"], ["adapter.rnk", "adapter.rank"]),
        (["optimizr.lr=1"], ["optimizer.lr"]),
        (["adapter=bitfit", "adapter.rank=4"], ["adapter.rank is not a key"]),
        (["adapter.targets=[q"], ["quote"]),
        (["experiment=None", "adapter.rnk=4"], ["adapter.rnk", "adapter.rank"]),
        (["task=e2e", "task.shots=4"], ["task.shots is not a key of task=e2e", "train_examples"]),
        (
            ["-m", "adapter=lora,nola", "adapter.num_bases=4"],
            ["adapter.num_bases", "every adapter of this sweep"],
        ),
    ],
)
def test_unknown_names(error_of, overrides, expected):
    sentence = error_of(*overrides)
    for part in expected:
        assert part in sentence


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["adapter.rank=0", TINY], "adapter.rank=0"),
        (["adapter.rank=-3", TINY], "adapter.rank=-3"),
        (["adapter.rank=abc", TINY], "adapter.rank='abc'"),
        (["adapter.rank=500", TINY], "set it to 1..32"),
        (["adapter.targets=[qurey]", TINY], "attention.self.query"),
        (["+adapter.foo=3", TINY], "no option foo: it takes rank"),
        (["seed=-1"], "seed=-1"),
        (["seed=None"], "seed=None"),
        (["trainer.max_epochs=0", TINY], "trainer.max_epochs=0"),
        (["optimizer.lr=None", TINY], "optimizer.lr='None' is invalid: expected a number"),
        (["paths.cache=null", TINY], "paths.cache=null is invalid"),
        (["scheduler.shape=cosin", TINY, "task.train_size=64"], "linear, cosine, constant"),
        (["optimizer.lr=-1", TINY, "task.train_size=64"], "optimizer.lr=-1"),
        (["trainer.precision=77", TINY], "77"),
        pytest.param(
            ["trainer.accelerator=mps", TINY, "task.train_size=64"],
            "MPS",
            marks=pytest.mark.skipif(sys.platform == "darwin", reason="MPS may exist there"),
        ),
        (["-m", "trainer.devices=2", "seed=1"], "torchrun"),
        (["predict=true", TINY], "unlabeled"),
        (["predict=true", "trainer.devices=2", TINY], "trainer.devices=1"),
        (["model.dtype=bfloat16"], "trainer=bf16"),
        (["ckpt_path=nowhere"], "ckpt_path=nowhere"),
        (["task=rte", "task.path=nowhere", TINY], "task.path=nowhere"),
        (["task=stsb", "task.shots=16", TINY], "task.shots"),
        (["model=bert_base", "model.path=./nowhere"], "model.path=./nowhere"),
    ],
)
def test_invalid_values(error_of, overrides, expected):
    assert expected in error_of(*overrides)


@pytest.mark.parametrize("override", ["ckpt_path=nowhere", "seed=-1", "ckpt_path={tmp}/old"])
def test_a_refused_run_leaves_no_files(error_of, tmp_path, override):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text("choices: {task: sst2}")  # of rlora 0.1
    error_of(override.format(tmp=tmp_path), TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["config.yaml"]


def test_an_unreachable_hub(error_of, monkeypatch, tmp_path):
    monkeypatch.setattr("rlora.models.pretrained.hub_answers", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    sentence = error_of("task=mnli", "model.path=nobody/nothing")
    assert "model.path" in sentence
    assert "model=minilm" in sentence


def test_a_full_disk(error_of, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("rlora.io.atomic.os.fsync", full)
    assert "the disk is full" in error_of(TINY, "task.train_size=64")
