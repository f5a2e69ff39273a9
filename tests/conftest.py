"""What all tests share: composing the config as the command line does, and running it small and offline."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

import composition

pytest_plugins = ["task_fixtures"]  # for tests of data and of tasks
ROOT = Path(__file__).resolve().parents[1]
WORDS = 120  # of the small lexicon: 60 to train on, 30 to validate, 30 to test
TINY = (
    "model=tiny_encoder",
    "task=lexicon",
    "task.train_size=60",
    "task.batch_size=20",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "print_config=false",
)


def pytest_collection_modifyitems(items):
    # the longest files first, so that none is left for the end, when other processes have nothing to do
    long = {item.path for item in items if item.get_closest_marker("cli")}
    items.sort(key=lambda item: item.path not in long)
    if os.environ.get("RLORA_DATA"):
        return
    skip = pytest.mark.skip(reason="RLORA_DATA is unset: the real files are not at hand")
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tensors this small are slower on many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def root():
    """The folder that holds conf, src and tests."""
    return ROOT


@pytest.fixture(scope="session")
def compose():
    """Function of the command line's words (and folder=): `config`, plain and resolved, and the groups' `choices`."""
    return composition.compose


@pytest.fixture(scope="session")
def small_lexicon(tmp_path_factory):
    """A lexicon of a few words, spread over the installed one."""
    file = Path(importlib.util.find_spec("vaderSentiment").origin).parent / "vader_lexicon.txt"
    lines = [line for line in file.read_text().splitlines() if line.partition("\t")[0].isalpha()]
    small = tmp_path_factory.mktemp("lexicon") / file.name
    small.write_text("\n".join(lines[:: len(lines) // WORDS][:WORDS]) + "\n")
    return small


@pytest.fixture(scope="session")
def tiny_job(small_lexicon, tmp_path_factory):
    """Function (*words, folder): (config, Job) of a run of a second, on a tiny model and a few words."""
    from rlora.config.job import Job

    cache = tmp_path_factory.mktemp("tokens")

    def prepare(*words, folder):
        words = [*TINY, f"task.path='{small_lexicon}'", f"paths.cache='{cache}'", *words]
        found = composition.compose(*words, folder=folder)
        return found.config, Job(Path(folder), found.choices, words)

    return prepare


@pytest.fixture(scope="session")
def tiny_run(tiny_job):
    """Function (*words, folder): compose, then `experiment.run` in this process; gives the score it returns."""
    from rlora.runs.experiment import run

    def start(*words, folder):
        config, job = tiny_job(*words, folder=folder)
        return run(OmegaConf.create(config), job)

    return start


@pytest.fixture(scope="session")
def tiny_experiment(tiny_job):
    """Function (*words, folder): the Experiment, whose `run()` leaves its parts to look at."""
    from rlora.runs.experiment import Experiment

    def prepare(*words, folder):
        return Experiment(*tiny_job(*words, folder=folder), Console(quiet=True))

    return prepare


@pytest.fixture
def record():
    """A record as a run would leave it."""
    from rlora.records.record import Environment, Parameters, Run, RunRecord, Training

    return RunRecord(
        run=Run(
            task="lexicon",
            model="minilm",
            adapter="rlora",
            regularizer="none",
            seed=0,
            directory="runs/1",
            started="2024-01-01T00:00:00+00:00",
            seconds=1.25,
            command=["adapter=rlora", "seed=0"],
            trained=True,
        ),
        parameters=Parameters(adapter=96, head=66, backbone=20000, percent=0.48),
        scores={"validation/accuracy": 0.75, "test/accuracy": 1 / 3},
        monitor="validation/accuracy",
        training=Training(
            epochs=1, steps=3, best_epoch=0, history=[{"epoch": 0, "train/loss": 0.1}]
        ),
        environment=Environment(
            host="here",
            platform="Linux",
            device="cpu",
            precision="32-true",
            threads=1,
            peak_memory_mib=10.5,
            peak_device_memory_mib=None,
            git_commit=None,
            git_dirty=None,
            versions={"torch": "2"},
        ),
        data={"sizes": {"train": 60}, "fingerprint": "ab"},
        backbone={"source": "random bert", "fingerprint": "cd"},
        adapter_file_bytes=1234,
        config={"seed": 0, "adapter": {"targets": ["q", "v"]}},
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Folder of tokenized data that all processes share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def start(tmp_path, cache):
    """Start train.py with words in a process whose outputs lie in a temporary folder."""

    def run(*words: str) -> subprocess.Popen:
        command = [
            sys.executable,
            "train.py",
            *words,
            f"paths.outputs={tmp_path}",
            f"paths.cache={cache}",
        ]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "offline",
        }
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return run


@pytest.fixture
def train(start):
    """Run train.py to its end; gives its output, and fails with it."""

    def run(*words: str) -> str:
        process = start(*words)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output
        return output

    return run
