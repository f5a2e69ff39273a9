"""Building from config nodes, plain values, and their types."""

import re
import sys
from functools import partial
from typing import TypedDict, Unpack

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console
from transformers import BertConfig

from rlora.config.build import (
    build,
    check_types,
    constructor_options,
    print_config,
    to_plain,
)
from rlora.config.flatten import flatten


class Part:
    """Keeps its arguments."""

    def __init__(self, first=None, *, size=1, options=None, inner=None, runtime=None):
        self.first, self.size = first, size
        self.options, self.inner = options, inner
        self.runtime = runtime


def add(a, b, *, c=0):
    return a + b + c


def collect(**options):
    return options


class Shared(TypedDict, total=False):
    """Options that several constructors share."""

    alpha: float
    beta: float


def combine(first, *, own=0, **options: Unpack[Shared]):
    return first, own, options


PART = f"{__name__}.Part"


@pytest.mark.parametrize(
    "value",
    [
        BertConfig(hidden_size=32),
        [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": 0.1}],
        {"nested": [{"a": 1}]},
        Part(),
        (1, 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_runtime_objects_are_passed_unchanged(value):
    built = build({"_target_": PART, "size": 3}, value, runtime=value)
    assert built.first is value
    assert built.runtime is value
    assert type(built.first) is type(value)
    assert built.size == 3


def test_containers_of_a_config_become_plain():
    node = OmegaConf.create(
        {"_target_": PART, "options": {"targets": ["q", "v"], "deep": [{"a": 1}]}}
    )
    built = build(node)
    assert type(built.options) is dict
    assert type(built.options["targets"]) is list
    assert type(built.options["deep"][0]) is dict


def test_nested_nodes_are_built():
    built = build(
        {
            "_target_": PART,
            "inner": {"_target_": PART, "size": 7},
            "options": {"a": {"_target_": PART}},
        }
    )
    assert isinstance(built.inner, Part)
    assert built.inner.size == 7
    assert isinstance(built.options["a"], Part)


def test_a_function_is_called():
    assert build({"_target_": f"{__name__}.add", "b": 2}, 1, c=4) == 7


@pytest.mark.parametrize(
    "node", [{"sise": 3}, {"sise": None, "size": 2}, {"rank": 1, "sise": {"a": 1}}]
)
def test_an_unknown_option_is_refused(node):
    with pytest.raises(ValueError, match=rf"{__name__}\.Part has no option .*sise") as caught:
        build({"_target_": PART, **node}, runtime=1)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    allowed = message.partition("it takes ")[2]
    assert allowed == "first, size, options, inner"  # runtime is passed by the framework


@pytest.mark.parametrize("target", ["nowhere.Adapter", "rlora.adapters.lora.Nothing", "nothing"])
def test_a_target_that_cannot_be_imported_is_named_in_one_sentence(target):
    with pytest.raises(
        ValueError, match=f"^_target_={target} is invalid: expected a class"
    ) as caught:
        build({"_target_": target})
    assert len(str(caught.value).splitlines()) == 1


def test_a_function_with_open_options_takes_any():
    assert build({"_target_": f"{__name__}.collect", "surplus": 1}, other=2) == {
        "surplus": 1,
        "other": 2,
    }


def test_shared_options_count_as_the_keys_of_their_class():
    target = f"{__name__}.combine"
    options, open_ended = constructor_options(combine)
    assert list(options) == ["first", "own", "alpha", "beta"]
    assert options["alpha"] is float
    assert not open_ended
    node = {"_target_": target, "own": 2, "alpha": 0.5}
    assert build(node, 1) == (1, 2, {"alpha": 0.5})
    with pytest.raises(ValueError, match="has no option gamma: it takes first, own, alpha, beta"):
        build({**node, "gamma": 1}, 1)


def test_errors_of_the_constructor_pass_through(monkeypatch):
    def fail(self, **_):
        raise TypeError("inside")

    monkeypatch.setattr(Part, "__init__", fail)
    with pytest.raises(TypeError, match=r"^inside$"):
        build({"_target_": PART})


def test_a_plain_config_is_resolved():
    config = OmegaConf.create({"a": 1, "b": ["${a}"]})
    assert to_plain(config) == {"a": 1, "b": [1]}
    assert type(to_plain(config)["b"]) is list
    assert to_plain({"a": 1}) == {"a": 1}


def test_flatten_gives_dotted_keys():
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {
        "a.b": 1,
        "a.c.d": [1, 2],
        "e": None,
    }
    assert flatten({"a": {}}) == {"a": {}}
    assert flatten({"a": 1}, "x/") == {"x/a": 1}


class Typed:
    """Has options of several types."""

    def __init__(
        self,
        *,
        rows: int | None = None,
        rate: float = 0.1,
        quick: bool = False,
        name: str = "",
        folder: str | None = None,
        anything=None,
    ):
        """Take anything; `check_types` looks at the types."""


TYPED = f"{__name__}.Typed"


@pytest.mark.parametrize(
    ("key", "word", "expected"),
    [
        ("rows", "None", None),
        ("rows", "none", None),
        ("rows", "NONE", None),
        ("folder", "None", None),
        ("folder", "none", "none"),
        ("name", "None", "None"),
        ("anything", "None", None),
        ("anything", "none", "none"),
        ("rate", "None", "None"),
    ],
)
def test_the_word_none_is_null_where_the_option_may_be_null(key, word, expected):
    config = OmegaConf.create({"task": {"_target_": TYPED, key: word}})
    assert to_plain(config)["task"][key] == expected


def test_the_word_none_without_a_constructor():
    config = {
        "study": "None",
        "compile": "none",
        "certificate": {"baseline": "None", "rule": "none"},
    }
    assert to_plain(OmegaConf.create(config)) == {
        "study": None,
        "compile": None,
        "certificate": {"baseline": None, "rule": "none"},
    }
    labels = {"task": {"labels": ["None", "Some"]}}
    assert to_plain(OmegaConf.create(labels)) == labels


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("task.shots=None", ("task", "shots")),
        ("task.train_examples=None", ("task", "train_examples")),
        ("task.num_workers=None", ("task", "num_workers")),
        ("trainer.gradient_clip_val=None", ("trainer", "gradient_clip_val")),
        ("study=None", ("study",)),
        ("ckpt_path=None", ("ckpt_path",)),
    ],
)
def test_none_from_a_sweep_is_null(compose, override, key):
    value = to_plain(OmegaConf.create(compose(override).config))
    for part in key:
        value = value[part]
    assert value is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows": "abc"}, "task.rows='abc' is invalid: expected a whole number or null"),
        ({"rows": 2.5}, "task.rows=2.5 is invalid: expected a whole number or null"),
        ({"rows": True}, "task.rows=True is invalid: expected a whole number or null"),
        ({"rate": None}, "task.rate=null is invalid: expected a number"),
        ({"rate": "None"}, "task.rate='None' is invalid: expected a number"),
        ({"quick": 3}, "task.quick=3 is invalid: expected true or false"),
        ({"rows": 3, "rate": 1, "quick": True, "name": 7, "folder": 5, "anything": []}, None),
    ],
)
def test_numbers_and_booleans_are_checked(monkeypatch, values, message):
    monkeypatch.setitem(sys.modules, "rlora.typed", sys.modules[__name__])
    config = {"task": {"_target_": "rlora.typed.Typed", **values}}
    if message is None:
        check_types(config)
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        check_types(config)


def test_the_printed_config_names_groups_and_values():
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    print_config(
        {"adapter": {"rank": 8, "targets": ["q"]}, "seed": 5, "logger": {}},
        console,
        {"adapter": "lora"},
    )
    output = console.export_text()
    for text in ("adapter = lora", "rank: 8", "targets: ['q']", "seed: 5"):
        assert text in output


def test_a_built_object_is_no_partial():
    assert not isinstance(build({"_target_": PART}), partial)
