"""Synthetic run records, and folders of them."""

from dataclasses import replace

import pytest

from rlora.records.record import write_record

SCORES = {  # by task, adapter and seed
    ("rte", "head", 1): 0.55, ("rte", "head", 2): 0.57, ("rte", "head", 3): 0.56,
    ("rte", "lora", 1): 0.60, ("rte", "lora", 2): 0.63, ("rte", "lora", 3): 0.64,
    ("rte", "rlora", 1): 0.62, ("rte", "rlora", 2): 0.64, ("rte", "rlora", 3): 0.66,
    ("mrpc", "head", 1): 0.70, ("mrpc", "head", 2): 0.71, ("mrpc", "head", 3): 0.72,
    ("mrpc", "lora", 1): 0.80, ("mrpc", "lora", 2): 0.82, ("mrpc", "lora", 3): 0.81,
    ("mrpc", "rlora", 1): 0.79, ("mrpc", "rlora", 2): 0.80, ("mrpc", "rlora", 3): 0.81,
}  # fmt: skip
PARAMETERS = {"head": 0, "lora": 73_728, "rlora": 9_216}


@pytest.fixture
def make_record(record):
    """Function that makes a record; further keyword arguments are keys of its config."""

    def make(
        task="rte",
        adapter="lora",
        seed=1,
        score=0.6,
        validation=0.5,
        started="2026-01-01",
        mode="max",
        **config,
    ):
        key = repr((task, adapter, seed, mode, sorted(config.items())))
        run = replace(
            record.run,
            task=task,
            adapter=adapter,
            seed=seed,
            config_hash=key,
            directory=f"runs/{key}",
            started=started,
        )
        return replace(
            record,
            run=run,
            config={"seed": seed, "task": {"mode": mode}, **config},
            scores={"validation/accuracy": validation, "test/accuracy": score},
            parameters=replace(record.parameters, adapter=PARAMETERS.get(adapter, 100)),
        )

    return make


@pytest.fixture
def write_runs(tmp_path):
    """Function (records): writes each to a run folder and returns the folder of all runs."""

    def write(records):
        for number, each in enumerate(records):
            write_record(each, tmp_path / "runs" / str(number))
        return tmp_path / "runs"

    return write


@pytest.fixture
def study_folder(make_record, write_runs):
    """A folder of 18 runs: three adapters, two tasks, three seeds."""
    return write_runs(
        [make_record(task, adapter, seed, score) for (task, adapter, seed), score in SCORES.items()]
    )
