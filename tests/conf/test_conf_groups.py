"""Every option of every group composes, resolves, and fits the constructor that it names."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_object

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted(
    (folder.name, file.stem)
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name not in ("hydra", "local", "recipe")
    for file in folder.glob("*.yaml")
)
# what the framework passes at run time: positional arguments, keywords; by the section of the config
RUNTIME = {
    "model": (0, {"kind", "num_labels", "seed"}),
    "optimizer": (1, set()),
    "scheduler": (1, {"total_steps"}),
    "trainer": (0, {"logger", "callbacks", "plugins"}),
}
WATCHING = {"monitor", "mode"}  # given to the callbacks that say `monitor: null`
# functions with **options: who takes them
TAKERS = {
    "rlora.models.packaged.package": "rlora.models.pretrained.pretrained",
    "lightning.pytorch.loggers.WandbLogger": "wandb.init",
}
SHOWS_ALL = (
    "adapter",
    "model",
    "optimizer",
    "scheduler",
    "regularizer",
)  # groups whose YAML lists every option


def named(pairs):
    return [pytest.param(*pair, id="=".join(pair)) for pair in pairs]


def targets(node, path=()):
    """All (path, node) with a `_target_` in a plain config."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, inner in node.items():
            yield from targets(inner, (*path, key))
    elif isinstance(node, list):
        for number, inner in enumerate(node):
            yield from targets(inner, (*path, number))


def parameters_of(name):
    """Named parameters of a target, those of the taker of its **options included."""
    found = {}
    for function in [name, *([TAKERS[name]] if name in TAKERS else [])]:
        found |= inspect.signature(get_object(function)).parameters
    return {key: p for key, p in found.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def misfit(path, node):
    """What is wrong with a node, "" if nothing."""
    section = path[0]
    count, keywords = RUNTIME.get(section, (0, set())) if len(path) == 1 else (0, set())
    options = set(node) - {"_target_"}
    if section == "callbacks" and "monitor" in node:
        options, keywords = options - WATCHING, WATCHING
    if options & keywords:
        return f"sets {sorted(options & keywords)}, which the framework passes"
    unknown = (options | keywords) - set(parameters_of(node["_target_"]))
    if unknown:
        return f"{node['_target_']} has no {sorted(unknown)}"
    try:
        arguments = dict.fromkeys(options | keywords)
        inspect.signature(get_object(node["_target_"])).bind(*[None] * count, **arguments)
    except TypeError as error:
        return f"{node['_target_']}: {error}"
    return ""


def test_no_group_is_overlooked():
    groups = {group for group, _ in OPTIONS}
    assert {
        "model",
        "adapter",
        "task",
        "optimizer",
        "scheduler",
        "trainer",
        "callbacks",
        "logger",
        "debug",
    } <= groups
    assert len(OPTIONS) > 40


@pytest.mark.parametrize(("group", "option"), named(OPTIONS))
def test_every_option_composes_and_fits(compose, group, option):
    found = compose(f"{group}={option}")
    assert found.choices[group] == option
    nodes = list(targets(found.config))
    assert {path[0] for path, _ in nodes} >= {
        "task",
        "model",
        "adapter",
        "optimizer",
        "scheduler",
        "trainer",
    }
    wrong = {".".join(map(str, path)): told for path, node in nodes if (told := misfit(path, node))}
    assert not wrong


@pytest.mark.parametrize(
    ("group", "option"), named(pair for pair in OPTIONS if pair[0] in SHOWS_ALL)
)
def test_the_yaml_shows_every_option(compose, group, option):
    node = compose(f"{group}={option}").config[group]
    count, keywords = RUNTIME.get(group, (0, set()))
    options = list(parameters_of(node["_target_"]))[count:]
    if (
        node["_target_"] in TAKERS
    ):  # path and revision are settled by the function that passes the rest on
        options = [key for key in options if key not in ("path", "revision")]
    assert set(options) - keywords == set(node) - {"_target_"}


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"_target_": "rlora.adapters.lora.LoRA", "rnk": 4}, "rnk"),
        ({"_target_": "rlora.models.random_init.random_model"}, "config"),
        ({"_target_": "rlora.models.random_init.random_model", "config": {}, "seed": 1}, "seed"),
        ({"_target_": "rlora.models.packaged.package", "name": "x", "dtyp": "float32"}, "dtyp"),
    ],
)
def test_the_check_finds_what_does_not_fit(node, told):
    section = "model" if "models" in node["_target_"] else "adapter"
    assert told in misfit((section,), node)
