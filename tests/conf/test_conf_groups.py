"""Every option of every group composes, resolves, and fits the constructor that it names."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_object

from rlora.config.build import constructor_options

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted(
    (folder.name, file.stem)
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name not in ("hydra", "local", "recipe")
    for file in folder.glob("[!_]*.yaml")  # a leading underscore marks lines shared by options
)
# Number of positional arguments and names of keywords that the framework passes at run time.
RUNTIME = {
    "model": (0, {"kind", "num_labels", "labels", "seed"}),
    "optimizer": (1, set()),
    "scheduler": (1, {"total_steps"}),
    "trainer": (0, {"logger", "callbacks", "plugins"}),
}
WATCHING = {"monitor", "mode"}  # passed to the callbacks that set `monitor: null`
# Functions with **options, and the function that receives these.
RECEIVERS = {
    "lightning.pytorch.loggers.WandbLogger": "wandb.init",
}
# Groups whose YAML lists every option of the constructor.
COMPLETE = ("adapter", "model", "optimizer", "scheduler", "regularizer")


def named(pairs):
    return [pytest.param(*pair, id="=".join(pair)) for pair in pairs]


def targets(node, path=()):
    """Yield (path, node) of every node with a `_target_` in a plain config."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, inner in node.items():
            yield from targets(inner, (*path, key))
    elif isinstance(node, list):
        for number, inner in enumerate(node):
            yield from targets(inner, (*path, number))


def parameters_of(name):
    """Return the parameters of a target and of the function that receives its **options."""
    names = dict(constructor_options(get_object(name))[0])
    if name in RECEIVERS:
        names |= constructor_options(get_object(RECEIVERS[name]))[0]
    return list(names)


def misfit(path, node):
    """Return what is wrong with a node, "" if nothing."""
    section = path[0]
    runtime = RUNTIME if len(path) == 1 else {}
    count, keywords = runtime.get(section, (0, set()))
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


def test_every_group_is_covered():
    groups = {"model", "adapter", "task", "optimizer", "scheduler", "trainer", "callbacks"}
    assert groups | {"logger", "debug"} <= {group for group, _ in OPTIONS}
    assert len(OPTIONS) > 40


@pytest.mark.parametrize(("group", "option"), named(OPTIONS))
def test_every_option_composes_and_fits(compose, group, option):
    composed = compose(f"{group}={option}")
    assert composed.choices[group] == option
    nodes = list(targets(composed.config))
    sections = {"task", "model", "adapter", "optimizer", "scheduler", "trainer"}
    assert {path[0] for path, _ in nodes} >= sections
    messages = {".".join(map(str, path)): misfit(path, node) for path, node in nodes}
    assert not {path: message for path, message in messages.items() if message}


@pytest.mark.parametrize(
    ("group", "option"), named(pair for pair in OPTIONS if pair[0] in COMPLETE)
)
def test_the_yaml_lists_every_option(compose, group, option):
    node = compose(f"{group}={option}").config[group]
    count, keywords = RUNTIME.get(group, (0, set()))
    options = parameters_of(node["_target_"])[count:]
    assert set(options) - keywords == set(node) - {"_target_"}


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ({"_target_": "rlora.adapters.lora.LoRA", "rnk": 4}, "rnk"),
        ({"_target_": "rlora.models.random_init.random_model"}, "config"),
        ({"_target_": "rlora.models.random_init.random_model", "config": {}, "seed": 1}, "seed"),
        (
            {"_target_": "rlora.models.packaged.load_packaged", "name": "x", "dtyp": "float32"},
            "dtyp",
        ),
    ],
)
def test_the_check_finds_what_does_not_fit(node, name):
    section = "model" if "models" in node["_target_"] else "adapter"
    assert name in misfit((section,), node)
