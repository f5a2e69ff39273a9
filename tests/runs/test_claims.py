"""Processes that start the same multirun share its runs: each is executed once."""

import multiprocessing
import signal
import time
from pathlib import Path

import pytest

from rlora.records.record import read_record
from rlora.records.status import FINISHED, run_folders, run_status, skipped_from
from rlora.runs.claims import claim

FORK = multiprocessing.get_context("fork")
SWEEP = (
    *("-m", "model=tiny_encoder", "task=lexicon", "task.train_size=60", "trainer=cpu"),
    *("trainer.max_epochs=1", "adapter=lora,rlora", "seed=1,2,3"),
)


def hold(folder, ready):
    with claim("a", folder, wait=False):
        ready.set()
        time.sleep(60)


@pytest.fixture
def owner(tmp_path):
    """A process that holds the claim on run `a`."""
    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


def test_one_process_has_the_claim_on_a_run(owner, tmp_path):
    with claim("a", tmp_path, wait=False) as ours:
        assert not ours
    with claim("b", tmp_path, wait=False) as ours:
        assert ours


def test_a_claim_ends_with_its_owner_and_a_search_waits_for_it(owner, tmp_path):
    owner.kill()
    with claim("a", tmp_path, wait=True) as ours:
        assert ours


def test_a_claim_ends_with_the_block_also_after_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="run"), claim("a", tmp_path, wait=False):
        raise RuntimeError("run")
    with claim("a", tmp_path, wait=False) as ours:
        assert ours


@pytest.mark.cli
def test_processes_execute_each_run_of_a_multirun_once(start, tmp_path):
    """One is killed in the middle: the others, or the next command, execute what it had claimed."""
    first, second, third = (start(*SWEEP, "study=shared") for _ in range(3))
    while not any(path.parent.name == "checkpoints" for path in tmp_path.rglob("*.ckpt")):
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    for process in (second, third):
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
    again = start(*SWEEP, "study=shared")
    output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, output
    executed = [
        read_record(folder).run.config_hash
        for folder in run_folders(tmp_path)
        if run_status(folder).state == FINISHED and skipped_from(folder) is None
    ]
    assert len(executed) == len(set(executed)) == 6
    (study,) = tmp_path.rglob("records.jsonl")
    assert len(study.read_text().splitlines()) == 6
    assert Path(study).parent.name == "shared"
