"""Building from config nodes, flattening, and one sentence for each config error."""

from functools import partial
from typing import TypedDict, Unpack

import pytest
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.console import Console
from transformers import BertConfig

from rlora.config.build import (
    build,
    config_keys,
    constructor_options,
    explain_config_error,
    is_config_error,
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


def test_a_function_with_open_options_takes_any():
    assert build({"_target_": f"{__name__}.collect", "surplus": 1}, other=2) == {
        "surplus": 1,
        "other": 2,
    }


def test_shared_options_count_as_the_keys_of_their_class():
    target = f"{__name__}.combine"
    assert constructor_options(combine) == (["first", "own", "alpha", "beta"], False)
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


def test_keys_need_no_values():
    assert config_keys(OmegaConf.create({"a": "${nowhere}", "b": {"c": "???"}})) == ["a", "b.c"]


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


# explain

KEYS = [
    "adapter.rank",
    "adapter.alpha",
    "optimizer.lr",
    "optimizer.head_lr",
    "task.batch_size",
    "seed",
]


@pytest.fixture
def error_of(compose):
    """Function (*overrides): the error that composing raises."""

    def catch(*overrides):
        with pytest.raises(Exception, match=r"\S") as caught:
            compose(*overrides)
        assert is_config_error(caught.value)
        return caught.value

    return catch


@pytest.fixture
def explained(error_of):
    """Function (*overrides, keys, swept): the sentence for the error that composing raises."""

    def explain(*overrides, keys=KEYS, swept=()):
        message = explain_config_error(error_of(*overrides), keys, set(swept))
        assert len(message.splitlines()) == 1
        return message

    return explain


@pytest.mark.parametrize(
    ("override", "right"),
    [
        ("adapter=lorra", "lora"),
        ("adapter=randlra", "randlora"),
        ("task=mnlii", "mnli"),
        ("model=roberta-base", "roberta_base"),
        ("trainer=cpuu", "cpu"),
        ("optimizer=adam", "adamw"),
    ],
)
def test_an_unknown_option_suggests_the_closest(explained, override, right):
    message = explained(override)
    assert message.startswith(f"{override} is unknown: did you mean ")
    assert right in message


def test_an_option_unlike_any_other_lists_all(explained):
    message = explained("adapter=zzzzzz")
    assert message.startswith("adapter=zzzzzz is unknown: choose one of ")
    assert all(name in message for name in ("lora", "rlora", "vera", "nola", "full"))


@pytest.mark.parametrize(
    ("override", "right"),
    [
        ("adapter.rnk=4", "adapter.rank"),
        ("adapter.lr=4", "optimizer.lr"),
        ("task.batchsize=4", "task.batch_size"),
        ("optimizer.learning_rate=4", "optimizer"),
        ("sed=4", "seed"),
        ("rank=4", "adapter.rank"),
    ],
)
def test_an_unknown_key_suggests_the_closest(explained, override, right):
    key = override.partition("=")[0]
    message = explained(override)
    assert message.startswith(f"{key} is not a key of the config: ")
    assert right in message
    assert f"+{key}=" in message


def test_a_key_that_not_every_swept_option_has(explained):
    message = explained("adapter=lora", "adapter.num_bases=4", swept=["adapter"])
    assert "adapter.num_bases is not a key of every adapter" in message
    assert "recipe" in message


@pytest.mark.parametrize("override", ["adapter=[lora", "seed", "task.path=a,b(", "seed=1 2]"])
def test_a_syntax_error_recommends_quotes(explained, override):
    assert "quote" in explained(override)


def test_an_interpolation_of_an_unknown_key(explained):
    message = explained("optimizer.lr=${nowhere}")
    assert "nowhere" in message
    assert "optimizer.lr" in message


def test_other_errors_are_no_config_errors():
    assert not is_config_error(ValueError("x"))
    assert is_config_error(HydraException("x")) or not issubclass(HydraException, ValueError)


def test_a_built_object_is_no_partial():
    assert not isinstance(build({"_target_": PART}), partial)
