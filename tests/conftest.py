"""Fixtures of all tests: compose the config as the command line does, run it small and offline."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

import composition
from warm_process import WarmPython

# fixtures of data and tasks; trained adapters, for exports and multi-adapter models
pytest_plugins = ["task_fixtures", "trained_models"]
ROOT = Path(__file__).resolve().parents[1]
LEXICON_SIZE = 120  # words: 60 for training, 30 for validation, 30 for the test split
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
    # Long files come first. At the end, one of them would keep a single worker busy.
    long = {item.path for item in items if item.get_closest_marker("cli")}
    items.sort(key=lambda item: item.path not in long)
    if os.environ.get("RLORA_DATA"):
        return
    skip = pytest.mark.skip(reason="RLORA_DATA is unset: the test needs the real files")
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(skip)


def subprocess_environment():
    """Environment of a run in a subprocess: one thread, no network."""
    offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    return {**os.environ, "OMP_NUM_THREADS": "1", **offline}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Use one thread: the tensors of the tests are so small that more threads are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def root():
    """Root folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def compose():
    """Function (*overrides, folder): the plain, resolved `config` and the `choices` of groups."""
    return composition.compose


@pytest.fixture(scope="session")
def small_lexicon(tmp_path_factory):
    """Path of a small lexicon, sampled evenly from the installed one."""
    file = Path(importlib.util.find_spec("vaderSentiment").origin).parent / "vader_lexicon.txt"
    lines = [line for line in file.read_text().splitlines() if line.partition("\t")[0].isalpha()]
    small = tmp_path_factory.mktemp("lexicon") / file.name
    small.write_text("\n".join(lines[:: len(lines) // LEXICON_SIZE][:LEXICON_SIZE]) + "\n")
    return small


@pytest.fixture(scope="session")
def tiny_job(small_lexicon, tmp_path_factory):
    """Function (*overrides, folder): (config, Job) of a run of about one second."""
    from rlora.config.job import Job

    cache = tmp_path_factory.mktemp("tokens")

    def prepare(*overrides, folder):
        paths = [f"task.path='{small_lexicon}'", f"paths.cache='{cache}'"]
        overrides = [*TINY, *paths, *overrides]
        composed = composition.compose(*overrides, folder=folder)
        return composed.config, Job(Path(folder), composed.choices, overrides)

    return prepare


@pytest.fixture(scope="session")
def tiny_run(tiny_job):
    """Function (*overrides, folder): run in this process; return the score."""
    from rlora.runs.experiment import run

    def start(*overrides, folder):
        config, job = tiny_job(*overrides, folder=folder)
        return run(OmegaConf.create(config), job)

    return start


@pytest.fixture(scope="session")
def tiny_parts(tiny_job):
    """Function (*overrides, folder): the Parts of a run, assembled and not yet executed."""
    from rlora.runs.assemble import assemble
    from rlora.runs.console import quieten
    from rlora.runs.experiment import prepare_folder
    from rlora.runs.plan import resolve

    def prepare(*overrides, folder):
        quieten()
        plan = resolve(*tiny_job(*overrides, folder=folder))
        prepare_folder(plan, folder)
        return assemble(plan, Console(quiet=True))

    return prepare


@pytest.fixture(scope="session")
def tiny_execution(tiny_job, tiny_parts):
    """Function (*overrides, folder): the Parts of an executed run, and its RunRecord."""
    from rlora.runs.experiment import execute

    def run(*overrides, folder):
        parts = tiny_parts(*overrides, folder=folder)
        return parts, execute(parts, tiny_job(*overrides, folder=folder)[1])

    return run


@pytest.fixture
def record():
    """A record as a finished run writes it."""
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
            host="localhost",
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
    """Cache folder of tokenized data, shared by the processes that a test file starts."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(tmp_path, cache):
    """Function (*overrides): arguments of train.py that writes to a temporary folder."""

    def arguments(*overrides: str) -> list[str]:
        return ["train.py", *overrides, f"paths.outputs={tmp_path}", f"paths.cache={cache}"]

    return arguments


@pytest.fixture
def start(command):
    """Function (*overrides): start train.py in a new interpreter; return the process."""
    processes = []

    def run(*overrides: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *command(*overrides)],
            cwd=ROOT,
            env=subprocess_environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # a background job of a shell ignores interrupts, and so would its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        processes.append(process)
        return process

    yield run
    for process in processes:  # a test that failed may leave one running
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def warm_python():
    """Server of processes that have imported torch."""
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is too long for a socket
        server = WarmPython(Path(folder) / "socket", subprocess_environment())
        yield server
        server.close()


@pytest.fixture
def processes_of(warm_python):
    """Function (number, script, *arguments): run a script in several processes, as torchrun does.

    The arguments of the trainer are appended. Returns the completed processes.
    """

    def run(number, script, *arguments):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        shared = {
            "TORCHELASTIC_RUN_ID": "test",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(number),
            "GROUP_RANK": "0",
            "HYDRA_FULL_ERROR": "1",  # as the children of train.py inherit it
        }
        devices = [f"trainer.devices={number}", "+trainer.strategy=ddp"]

        def one(rank):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            return warm_python.run(
                [script, *arguments, *devices],
                folder=ROOT,
                environment={**subprocess_environment(), **shared, **ranks},
                timeout=100,
            )

        with ThreadPoolExecutor(number) as pool:
            return list(pool.map(one, range(number)))

    return run


@pytest.fixture
def completed(command, warm_python):
    """Function (*overrides): run train.py to its end in a preloaded process; return the process."""

    def run(*overrides: str) -> subprocess.CompletedProcess:
        environment = subprocess_environment()
        return warm_python.run(
            command(*overrides), folder=ROOT, environment=environment, timeout=400
        )

    return run


@pytest.fixture
def train(completed):
    """Function (*overrides): run train.py with success; return its output."""

    def run(*overrides: str) -> str:
        process = completed(*overrides)
        assert process.returncode == 0, process.stdout
        return process.stdout

    return run
