"""The command line in subprocesses: output files, kills, signals, several processes, W&B."""

import json
import re
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from rlora.config.job import Job
from rlora.records.record import read_record
from rlora.runs import experiment

pytestmark = [
    pytest.mark.cli,
    pytest.mark.filterwarnings(
        "ignore:The number of training batches", "ignore:The dirpath has changed"
    ),
]
DDP = ("trainer.accelerator=cpu", "trainer.devices=2", "+trainer.strategy=ddp")


@pytest.fixture
def small(small_lexicon):
    """Overrides of a run of about one second: 60 words, three batches per epoch."""
    return (
        "model=tiny_encoder",
        f"task.path={small_lexicon}",
        "task.train_size=60",
        "task.batch_size=20",
        "trainer=cpu",
        "trainer.enable_progress_bar=false",
    )


@pytest.fixture
def run_here(compose, cache, tmp_path):
    """Function (*overrides, folder): what `train` does, in this process; return the record."""

    def run(*overrides, folder):
        paths = (f"paths.cache='{cache}'", f"paths.outputs='{tmp_path}'")
        composed = compose(*paths, *overrides, folder=folder)
        config = OmegaConf.create(composed.config)
        experiment.run(config, Job(folder, composed.choices, list(overrides)))
        return read_record(folder)

    return run


def offline_messages(file: Path) -> Iterator[Any]:
    """Yield the messages of a W&B offline file.

    The file is a LevelDB log: blocks of 32 KiB, each piece with checksum, length and type.
    """
    from wandb.proto import wandb_internal_pb2

    data, message = file.read_bytes(), b""
    position = 7  # after the header of W&B
    while position + 7 <= len(data):
        if (left := 2**15 - position % 2**15) < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        message += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # complete, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            message = b""
            yield record


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a run's last checkpoint."""
    state: dict[str, torch.Tensor] = torch.load(
        run / "checkpoints" / "last.ckpt", weights_only=True
    )["state_dict"]
    return state


def wait_for(process: subprocess.Popen[str], condition: Any, seconds: float = 240) -> None:
    """Wait until a condition holds; fail if the process ends or the time is up before it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the time is up"
        time.sleep(0.01)


def test_a_run_writes_its_files_and_every_saved_part_gives_its_scores(
    train, run_here, small, tmp_path
):
    run = tmp_path / "run"
    overrides = ("adapter=nola", "seed=3", "adapter.rank=2", "trainer.max_epochs=2")
    output = train(*small, *overrides, f"hydra.run.dir={run}")
    record = read_record(run)
    assert {p.name for p in run.iterdir()} >= {
        "config.yaml",
        "metrics.csv",
        "results.json",
        "adapter",
        "checkpoints",
    }
    assert {p.name for p in (run / "adapter").iterdir()} == {
        "adapter.safetensors",
        "head.safetensors",
        "adapter.json",
    }
    named = (record.run.adapter, record.run.model, record.run.task)
    assert named == ("nola", "tiny_encoder", "lexicon")
    assert record.training.epochs == 2
    assert record.config["adapter"]["rank"] == 2
    for shown in (
        "nola on lexicon",
        f"{record.scores['test/accuracy']:.4f}",
        f"{record.parameters.adapter:,}",
    ):
        assert shown in output
    scores = {key: value for key, value in record.scores.items() if key.startswith("test")}
    # no adapter=, model= or seed=: ckpt_path restores them
    for number, saved in enumerate([run / "adapter", run / "checkpoints" / "best.ckpt"]):
        folder = tmp_path / f"evaluated{number}"
        evaluated = run_here("train=false", f"ckpt_path='{saved}'", folder=folder)
        assert evaluated.scores == scores
        assert evaluated.run.adapter == "nola"
    overridden = tmp_path / "overridden"
    train(
        "train=false", f"ckpt_path={run}", "task.eval_batch_size=7", f"hydra.run.dir={overridden}"
    )
    assert yaml.safe_load((overridden / "config.yaml").read_text())["task"]["eval_batch_size"] == 7
    assert read_record(overridden).scores == pytest.approx(scores, rel=1e-6)
    assert read_record(overridden).run.adapter == "nola"


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    start, run_here, small, tmp_path
):
    overrides = (*small, "trainer.max_epochs=40", "optimizer.lr=0.02")
    whole, killed, resumed = (tmp_path / name for name in ("whole", "killed", "resumed"))
    process = start(*overrides, f"hydra.run.dir={killed}")
    last = killed / "checkpoints" / "last.ckpt"
    wait_for(process, last.exists)
    process.kill()
    process.communicate()
    if torch.load(last, weights_only=True)["epoch"] == 39:
        pytest.skip("the machine was too slow to kill the run between its epochs")
    assert not (killed / "results.json").exists()
    first = run_here(*overrides, folder=whole)
    second = run_here(f"ckpt_path='{killed}'", folder=resumed)
    expected, state = weights(whole), weights(resumed)
    assert expected.keys() == state.keys()
    assert all(torch.equal(expected[name], state[name]) for name in expected)
    assert first.scores == second.scores
    assert first.training.history == second.training.history
    assert first.training.best_epoch == second.training.best_epoch
    for name in ("adapter.safetensors", "head.safetensors"):
        assert (whole / "adapter" / name).read_bytes() == (resumed / "adapter" / name).read_bytes()


def test_an_interrupted_run_says_how_to_resume(start, small, tmp_path):
    run = tmp_path / "run"
    process = start(*small, "trainer.max_epochs=100000", f"hydra.run.dir={run}")
    wait_for(process, (run / "checkpoints" / "last.ckpt").exists)
    # Python drops an interrupt that arrives in a destructor: the user types Ctrl-C again
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=30)
            break
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == 1
    assert f"interrupted: set ckpt_path={run} to resume" in output
    assert not (run / "results.json").exists()
    assert not (run / "adapter").exists()


def test_a_multirun_writes_one_record_per_job(train, small, tmp_path):
    train("-m", *small, "adapter=lora,rlora", "seed=0,1", "trainer.max_epochs=1", "adapter.rank=4")
    records = [read_record(path) for path in sorted(tmp_path.glob("multiruns/*/*/results.json"))]
    assert [(r.run.adapter, r.run.seed) for r in records] == [
        ("lora", 0),
        ("lora", 1),
        ("rlora", 0),
        ("rlora", 1),
    ]
    assert [r.parameters.adapter for r in records] == [1024, 1024, 256, 256]
    names = {path.parent.name for path in tmp_path.glob("multiruns/*/*/results.json")}
    assert "0-lexicon-lora-seed0" in names


def test_wandb_offline_has_the_same_numbers(train, small, tmp_path):
    run = tmp_path / "run"
    train(*small, "logger=wandb", "trainer.max_epochs=1", f"hydra.run.dir={run}")
    (file,) = run.glob("wandb/offline-run-*/run-*.wandb")
    summary, config = {}, {}
    for message in offline_messages(file):
        for item in message.history.item:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        for update in (message.run.config.update, message.config.update):
            config |= {
                (item.key or ".".join(item.nested_key)): json.loads(item.value_json)
                for item in update
            }
    record = read_record(run)
    for name, score in record.scores.items():
        assert summary[f"final/{name}"] == pytest.approx(score, rel=1e-6)
    assert summary["parameters/adapter"] == record.parameters.adapter
    assert config["adapter"] == "rlora"  # the choice, not a nested dict: sweeps set this key
    assert config["adapter.rank"] == 8


def test_two_processes_share_the_work(train, run_here, small, tmp_path):
    run = tmp_path / "run"
    # batches of 8, 8, 8 and fewer words, so that the processes score different numbers
    batches = ("task.eval_batch_size=8", "trainer.max_epochs=1")
    train(*small, *DDP, *batches, f"hydra.run.dir={run}")
    record = read_record(run)
    assert record.training.steps == 1  # 60 words, 30 per process, full batches of 20 only
    # every test word is scored once, as in one process
    alone = run_here(
        "train=false", f"ckpt_path='{run}'", "trainer.devices=1", folder=tmp_path / "alone"
    )
    for name in ("test/accuracy", "test/loss"):
        assert alone.scores[name] == pytest.approx(record.scores[name], rel=1e-6)


def test_a_killed_multirun_resumes_with_the_same_command(start, train, small, tmp_path):
    overrides = ("-m", *small, "seed=0,1,2", "trainer.max_epochs=1")
    process = start(*overrides)
    wait_for(process, lambda: list(tmp_path.rglob("results.json")))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    finished = map(read_record, tmp_path.rglob("results.json"))
    before = {record.run.seed: record.run.started for record in finished}
    assert 0 in before
    output = train(*overrides)
    assert "skipped: the same run finished on" in output
    last = max((tmp_path / "multiruns").iterdir())
    after = {
        record.run.seed: record.run.started
        for record in map(read_record, last.rglob("results.json"))
    }
    assert set(after) == {0, 1, 2}
    assert after | before == after


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--help",),
            ["Common commands", "== Groups ==", "adapter: bitfit", "task: cola", "max_epochs:"],
        ),
        (("--shell-completion", "install=bash"), ["complete"]),
    ],
)
def test_help_and_completion(start, arguments, expected):
    output, _ = start(*arguments).communicate(timeout=300)
    for text in expected:
        assert text in output
    assert "Traceback" not in output
    assert "_glue" not in output


def test_precision_checkpointing_compiling_and_early_stopping_are_options(
    run_here, small, tmp_path
):
    overrides = (
        *small,
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=1",
        "trainer.max_epochs=9",
    )
    # with a learning rate of zero the score cannot improve: the second epoch is the last
    stopped = run_here(
        *overrides, "optimizer.lr=0", "optimizer.head_lr=0", folder=tmp_path / "stopped"
    )
    assert stopped.training.epochs == 2
    overrides = (
        *small,
        "trainer=bf16",
        "trainer.accelerator=cpu",
        "model.gradient_checkpointing=true",
        "model.config.num_hidden_layers=1",  # Dynamo traces each layer
        "compile=eager",
    )
    switched = run_here(
        *overrides, "trainer.max_epochs=1", "scheduler=cosine", folder=tmp_path / "switched"
    )
    assert switched.environment.precision == "bf16-mixed"


def test_the_default_run_is_accurate_and_small(train, tmp_path):
    """The README promises 0.90 test accuracy within 2 GB on the installed backbone and data."""
    run = tmp_path / "run"
    train("trainer.enable_progress_bar=false", f"hydra.run.dir={run}")
    record = read_record(run)
    assert (record.run.adapter, record.run.model, record.run.task) == ("rlora", "minilm", "lexicon")
    assert record.scores["test/accuracy"] >= 0.90
    assert record.environment.peak_memory_mib < 2048
    assert record.parameters.adapter == 6 * 2 * 2 * 384  # a and b of q and v in 6 layers
    assert re.fullmatch("[0-9a-f]{64}", record.data["fingerprint"])


@pytest.fixture
def generation(tmp_path):
    """Overrides of a run that generates 54 texts after an epoch of four examples."""
    data = tmp_path / "e2e"
    data.mkdir()
    rows = [f'"name[Inn {number}], food[pie]",Inn {number} serves pie.' for number in range(60)]
    splits = {"trainset": rows[:4], "devset": rows[4:6], "testset_w_refs": rows[6:]}
    for file, lines in splits.items():
        (data / f"{file}.csv").write_text("\n".join(["mr,ref", *lines, ""]))
    return (
        "task=e2e",
        f"task.path='{data}'",
        "task.batch_size=2",
        "task.eval_batch_size=1",
        "model=tiny_decoder",
        "adapter=lora",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
    )


def test_two_processes_generate_the_texts_of_one(train, run_here, generation, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    short = ("task.decoding.max_new_tokens=6", "task.decoding.beams=2")
    record = run_here(*generation, *short, folder=alone)
    evaluated = ("train=false", f"ckpt_path={alone}/adapter", *DDP)
    train(*evaluated, f"hydra.run.dir={together}")
    assert len((together / "texts" / "test-1.jsonl").read_text().splitlines()) == 1 + 27
    texts = [(folder / "texts" / "test.tsv").read_text() for folder in (together, alone)]
    assert texts[0] == texts[1]
    assert read_record(together).scores == pytest.approx(record.scores, rel=1e-5)
    train(*generation, *DDP, *short, f"hydra.run.dir={tmp_path / 'trained'}")
    assert "test/BLEU" in read_record(tmp_path / "trained").scores


def test_a_killed_generation_resumes_with_the_saved_texts(
    start, run_here, generation, tmp_path, caplog
):
    killed, resumed = tmp_path / "killed", tmp_path / "resumed"
    slow = (
        "task.decoding.batch_size=1",
        "task.decoding.max_new_tokens=100",
        "task.decoding.beams=2",
    )
    process = start(*generation, *slow, f"hydra.run.dir={killed}")
    saved = killed / "texts" / "test.jsonl"
    wait_for(process, lambda: saved.exists() and len(saved.read_text().splitlines()) >= 4)
    process.kill()
    process.communicate()
    before = [json.loads(line) for line in saved.read_text().rpartition("\n")[0].splitlines()]
    assert 4 <= len(before) < 55
    assert not (killed / "results.json").exists()
    with caplog.at_level("INFO"):
        record = run_here(f"ckpt_path='{killed}'", folder=resumed)
    assert f"test: reusing {len(before) - 1} of 54 texts" in caplog.text
    after = [
        json.loads(line) for line in (resumed / "texts" / "test.jsonl").read_text().splitlines()
    ]
    assert len(after) == 1 + 54
    assert after[: len(before)] == before
    assert record.run.trained
    assert record.training.epochs == 1
    assert "test/BLEU" in record.scores
    assert (resumed / "adapter" / "adapter.safetensors").is_file()
