"""The real command line, in processes of its own."""

import json
import re
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rlora.records.record import read_record

ROOT = Path(__file__).parents[2]
SMALL = (
    "model=tiny_encoder",
    "task.train_size=96",
    "print_config=false",
    "trainer.enable_progress_bar=false",
)

pytestmark = pytest.mark.cli


def offline_messages(file: Path) -> Iterator[Any]:
    """Yield the messages of a W&B offline file.

    The file is a LevelDB log: blocks of 32 KiB, each piece with checksum, length and type.
    """
    from wandb.proto import wandb_internal_pb2

    data, place, message = file.read_bytes(), 7, b""  # W&B's own header is 7 bytes
    while place + 7 <= len(data):
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        message += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            message = b""
            yield record


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(
        run / "checkpoints" / "last.ckpt", weights_only=True
    )["state_dict"]
    return state


def test_run_leaves_what_it_should_and_every_way_back_gives_the_same_scores(train, tmp_path):
    run = tmp_path / "run"
    output = train(
        *SMALL,
        "adapter=nola",
        "seed=3",
        "adapter.rank=2",
        "trainer.max_epochs=2",
        f"hydra.run.dir={run}",
    )
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
    assert (record.run.adapter, record.run.model, record.run.task) == (
        "nola",
        "tiny_encoder",
        "lexicon",
    )
    assert record.training.epochs == 2
    assert record.config["adapter"]["rank"] == 2
    for shown in (
        "nola on lexicon",
        f"{record.scores['test/accuracy']:.4f}",
        f"{record.parameters.adapter:,}",
    ):
        assert shown in output
    for number, saved in enumerate([run, run / "adapter", run / "checkpoints" / "best.ckpt"]):
        again = tmp_path / f"again{number}"
        # no adapter=, model= or seed=: they come with the checkpoint
        train("train=false", "print_config=false", f"ckpt_path={saved}", f"hydra.run.dir={again}")
        scores = read_record(again).scores
        assert scores == {k: v for k, v in record.scores.items() if k.startswith("test")}
        assert read_record(again).run.adapter == "nola"
    overridden = tmp_path / "overridden"
    train(
        "train=false", f"ckpt_path={run}", "task.eval_batch_size=7", f"hydra.run.dir={overridden}"
    )
    assert yaml.safe_load((overridden / "config.yaml").read_text())["task"]["eval_batch_size"] == 7


def test_killed_run_resumed_equals_the_uninterrupted_one_to_the_bit(start, train, tmp_path):
    words = (*SMALL, "trainer.max_epochs=2", "optimizer.lr=0.02")
    whole, killed, resumed = (tmp_path / name for name in ("whole", "killed", "resumed"))
    train(*words, f"hydra.run.dir={whole}")
    # many epochs to go, so that the kill comes in time; the schedule's length is restored below
    process = start(*words, f"hydra.run.dir={killed}")
    last = killed / "checkpoints" / "last.ckpt"
    while not last.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert last.exists()
    if torch.load(last, weights_only=True)["epoch"] != 0:
        pytest.skip("the machine was too slow to kill the run between its epochs")
    assert not (killed / "results.json").exists()
    train(f"ckpt_path={killed}", f"hydra.run.dir={resumed}", "print_config=false")
    one, two = weights(whole), weights(resumed)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    first, second = read_record(whole), read_record(resumed)
    assert first.scores == second.scores
    assert first.training.history == second.training.history
    assert first.training.best_epoch == second.training.best_epoch
    for name in ("adapter.safetensors", "head.safetensors"):
        assert (whole / "adapter" / name).read_bytes() == (resumed / "adapter" / name).read_bytes()


def test_resuming_within_an_epoch_is_exact(train, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    words = (
        *SMALL,
        "task.batch_size=8",  # 12 batches an epoch
        "trainer.max_epochs=2",
        "trainer.accumulate_grad_batches=2",
        "+callbacks.step._target_=lightning.pytorch.callbacks.ModelCheckpoint",
        "+callbacks.step.dirpath=${paths.run}/checkpoints",
        "+callbacks.step.filename=inside",
        "+callbacks.step.every_n_train_steps=5",  # after 5 and 10 of 12 optimizer steps
    )
    train(*words, f"hydra.run.dir={whole}")
    inside = torch.load(whole / "checkpoints" / "inside.ckpt", weights_only=True)
    assert (inside["epoch"], inside["global_step"]) == (1, 10)
    train(*words, f"ckpt_path={whole}/checkpoints/inside.ckpt", f"hydra.run.dir={resumed}")
    one, two = weights(whole), weights(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_interrupted_run_says_how_to_go_on(start, tmp_path):
    run = tmp_path / "run"
    process = start(*SMALL, "trainer.max_epochs=500", f"hydra.run.dir={run}")
    while not (run / "checkpoints" / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "ckpt_path" in output
    assert not (run / "results.json").exists()
    assert not (run / "adapter").exists()


def test_multirun_leaves_a_record_a_job(train, tmp_path):
    train("-m", *SMALL, "adapter=lora,rlora", "seed=0,1", "trainer.max_epochs=1", "adapter.rank=4")
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


def test_wandb_offline_carries_the_same_numbers(train, tmp_path):
    run = tmp_path / "run"
    train(*SMALL, "logger=wandb", "trainer.max_epochs=1", f"hydra.run.dir={run}")
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
    assert config["adapter"] == "rlora"  # the choice, not a nested dict: sweeps set this very key
    assert config["adapter.rank"] == 8


def test_two_processes_share_the_work(train, tmp_path):
    run, alone = tmp_path / "run", tmp_path / "alone"
    words = (
        *SMALL,
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "+trainer.strategy=ddp",
        "trainer.max_epochs=1",
    )
    train(*words, f"hydra.run.dir={run}")
    record = read_record(run)
    assert record.training.steps == 1  # 96 words, 32 a process, full batches only
    # every test word is scored once, as on one process
    train("train=false", f"ckpt_path={run}", "trainer.devices=1", f"hydra.run.dir={alone}")
    assert read_record(alone).scores["test/accuracy"] == pytest.approx(
        record.scores["test/accuracy"], abs=1e-7
    )


def test_a_killed_multirun_goes_on_where_it_stopped(start, train, tmp_path):
    words = ("-m", *SMALL, "seed=0,1,2", "trainer.max_epochs=1")
    process = start(*words)
    deadline = time.monotonic() + 120
    while not (done := list(tmp_path.rglob("results.json"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    before = {record.run.seed: record.run.started for record in map(read_record, done)}
    assert 0 in before
    output = train(*words)
    assert "skipped: the same run finished on" in output
    last = max((tmp_path / "multiruns").iterdir())
    after = {
        record.run.seed: record.run.started
        for record in map(read_record, last.rglob("results.json"))
    }
    assert set(after) == {0, 1, 2}
    assert after | before == after


def test_help_and_completion(start):
    for words, expected in (
        (("--help",), "adapter: "),
        (("--shell-completion", "install=bash"), "complete"),
    ):
        process = start(*words)
        output, _ = process.communicate(timeout=120)
        assert expected in output


def test_precision_checkpointing_compiling_and_early_stopping_are_switches(train, tmp_path):
    words = (
        *SMALL,
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=1",
        "trainer.max_epochs=9",
    )
    plain, switched = tmp_path / "plain", tmp_path / "switched"
    # a learning rate of nothing: the score cannot improve, the second epoch is the last
    train(*words, "optimizer.lr=0", "optimizer.head_lr=0", f"hydra.run.dir={plain}")
    assert read_record(plain).training.epochs == 2
    words = (
        *SMALL,
        "trainer=bf16",
        "trainer.accelerator=cpu",
        "model.gradient_checkpointing=true",
        "compile=eager",
    )
    train(*words, "trainer.max_epochs=1", "scheduler=cosine", f"hydra.run.dir={switched}")
    assert read_record(switched).environment.precision == "bf16-mixed"


def test_default_run_is_accurate_and_small(train, tmp_path):
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
def writing(tmp_path):
    """Words of a run that writes 54 texts after an epoch of four."""
    data = tmp_path / "e2e"
    data.mkdir()
    rows = [f'"name[Inn {number}], food[pie]",Inn {number} serves pie.' for number in range(60)]
    for file, some in {
        "trainset": rows[:4],
        "devset": rows[4:6],
        "testset_w_refs": rows[6:],
    }.items():
        (data / f"{file}.csv").write_text("\n".join(["mr,ref", *some, ""]))
    words = (
        "task=e2e",
        f"task.path={data}",
        "task.batch_size=2",
        "task.eval_batch_size=1",
        "model=tiny_decoder",
        "adapter=lora",
    )
    return (
        *words,
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        "print_config=false",
    )


def test_two_processes_write_what_one_writes(train, writing, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    train(*writing, "task.decoding.max_new_tokens=6", f"hydra.run.dir={alone}")
    several = ("trainer.accelerator=cpu", "trainer.devices=2", "+trainer.strategy=ddp")
    train(
        "train=false",
        f"ckpt_path={alone}/adapter",
        *several,
        "print_config=false",
        f"hydra.run.dir={together}",
    )
    assert len((together / "texts" / "test-1.jsonl").read_text().splitlines()) == 1 + 27
    assert (together / "texts" / "test.tsv").read_text() == (
        alone / "texts" / "test.tsv"
    ).read_text()
    assert read_record(together).scores == pytest.approx(read_record(alone).scores, rel=1e-5)
    train(
        *writing,
        *several,
        "task.decoding.max_new_tokens=6",
        f"hydra.run.dir={tmp_path / 'trained'}",
    )
    assert "test/BLEU" in read_record(tmp_path / "trained").scores


def test_writing_that_was_killed_goes_on_with_the_texts_that_are_there(
    start, train, writing, tmp_path
):
    killed, resumed = tmp_path / "killed", tmp_path / "resumed"
    slow = ("task.decoding.batch_size=1", "task.decoding.max_new_tokens=100")
    process = start(*writing, *slow, f"hydra.run.dir={killed}")
    kept = killed / "texts" / "test.jsonl"
    while process.poll() is None and (not kept.exists() or len(kept.read_text().splitlines()) < 4):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = [json.loads(line) for line in kept.read_text().rpartition("\n")[0].splitlines()]
    assert 4 <= len(before) < 55
    assert not (killed / "results.json").exists()
    output = train(f"ckpt_path={killed}", f"hydra.run.dir={resumed}", "print_config=false")
    assert f"test: {len(before) - 1} of 54 texts are there already" in output
    after = [
        json.loads(line) for line in (resumed / "texts" / "test.jsonl").read_text().splitlines()
    ]
    assert len(after) == 1 + 54
    assert after[: len(before)] == before
    record = read_record(resumed)
    assert record.run.trained
    assert record.training.epochs == 1
    assert "test/BLEU" in record.scores
    assert (resumed / "adapter" / "adapter.safetensors").is_file()
