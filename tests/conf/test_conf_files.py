"""Layout of the config files: YAML, choice and Python module share one name."""

import importlib
import inspect
import itertools
import re
from pathlib import Path

import pytest
import yaml

from rlora.adapters import LinearMethod, Method, RankedMethod

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "conf").rglob("*.yaml"))
TASKS = sorted((ROOT / "conf" / "task").glob("[!_]*.yaml"))
ADAPTERS = sorted((ROOT / "conf" / "adapter").glob("*.yaml"))
MODULES = sorted(
    file.stem
    for file in (ROOT / "src" / "rlora" / "adapters").iterdir()
    if not file.stem.startswith("_")
)
SHARED = ["alpha", "dropout", "targets"]  # of every LinearMethod, after the rank if there is one


def short(file):
    return str(file.relative_to(ROOT / "conf"))


def methods_of(stem):
    """Return the concrete methods that a module of rlora.adapters defines."""
    module = importlib.import_module(f"rlora.adapters.{stem}")
    classes = [m for _, m in inspect.getmembers(module, inspect.isclass)]
    members = [m for m in classes if f"{m.__module__}.".startswith(f"{module.__name__}.")]
    return [
        member
        for member in members
        if issubclass(member, Method) and not inspect.isabstract(member)
    ]


def header_of(lines):
    """Return the comment at the top of a file as one text, without the package directive."""
    lines = [line for line in lines if not line.startswith("# @package")]
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.removeprefix("#").strip() for line in comment)


@pytest.mark.parametrize("file", FILES, ids=short)
def test_a_file_is_short_and_starts_with_a_sentence_that_says_what_it_is(file):
    lines = file.read_text().splitlines()
    header = header_of(lines)
    assert len(re.findall(r"[A-Za-z]{2,}", header)) >= 3
    assert re.match(r"[A-Z]|\S*[._-]|python ", header), "start with a capital or a name"
    assert re.search(r"[.:)]$|[.:] ", header), "write a sentence"
    assert len(lines) <= (60 if short(file) == "hydra/default.yaml" else 40)  # the help text


@pytest.mark.parametrize("file", ADAPTERS, ids=short)
def test_an_adapter_has_the_name_of_its_module(compose, file):
    target = yaml.safe_load(file.read_text())["adapter"]["_target_"]
    assert target.rpartition(".")[0] == f"rlora.adapters.{file.stem}"
    assert [method.__name__ for method in methods_of(file.stem)] == [target.rpartition(".")[2]]
    composed = compose(f"adapter={file.stem}")
    assert composed.choices["adapter"] == file.stem
    assert composed.config["adapter"]["_target_"] == target


def test_every_method_has_a_yaml():
    with_methods = {stem for stem in MODULES if methods_of(stem)}
    assert with_methods == {file.stem for file in ADAPTERS}


@pytest.mark.parametrize("file", ADAPTERS, ids=short)
def test_an_adapter_starts_with_the_shared_options(file):
    keys = [key for key in yaml.safe_load(file.read_text())["adapter"] if key != "_target_"]
    method = methods_of(file.stem)[0]
    assert keys == list(inspect.signature(method).parameters)
    if issubclass(method, LinearMethod):
        first = ["rank", *SHARED] if issubclass(method, RankedMethod) else SHARED
        assert keys[: len(first)] == first


def test_some_adapters_are_ranked():
    assert sum("rank" in yaml.safe_load(file.read_text())["adapter"] for file in ADAPTERS) >= 4


@pytest.mark.parametrize("file", sorted((ROOT / "conf" / "model").glob("*.yaml")), ids=short)
def test_a_hub_model_is_pinned(file):
    node = yaml.safe_load(file.read_text())
    if node["_target_"] == "rlora.models.pretrained.load_pretrained":
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", node["path"])
        assert re.fullmatch(r"[0-9a-f]{40}", node["revision"])
    else:
        assert "revision" not in node


@pytest.mark.parametrize("file", TASKS, ids=short)
def test_a_task_has_the_name_of_its_file(compose, file):
    assert compose(f"task={file.stem}").config["task"]["name"] == file.stem
