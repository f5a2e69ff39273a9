"""Building from config nodes, flattening, and one sentence for what is wrong with a command line."""

from functools import partial

import pytest
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.console import Console
from transformers import BertConfig

from rlora.config.build import (
    build,
    config_keys,
    explain_config_error,
    is_config_error,
    print_config,
    to_plain,
)
from rlora.config.flatten import flatten


class Part:
    """Holds what it was given."""

    def __init__(self, first=None, *, size=1, options=None, inner=None, runtime=None):
        self.first, self.size, self.options, self.inner, self.runtime = (
            first,
            size,
            options,
            inner,
            runtime,
        )


def add(a, b, *, c=0):
    return a + b + c


def collect(**options):
    return options


PART = f"{__name__}.Part"


@pytest.mark.parametrize(
    "given",
    [
        BertConfig(hidden_size=32),
        [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": 0.1}],
        {"nested": [{"a": 1}]},
        Part(),
        (1, 2),
    ],
    ids=lambda given: type(given).__name__,
)
def test_runtime_objects_arrive_untouched(given):
    built = build({"_target_": PART, "size": 3}, given, runtime=given)
    assert built.first is given
    assert built.runtime is given
    assert type(built.first) is type(given)
    assert built.size == 3


def test_a_configs_containers_become_plain():
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
    told = str(caught.value)
    assert len(told.splitlines()) == 1
    allowed = told.partition("it takes ")[2]
    assert allowed == "first, size, options, inner"  # without what the framework passes itself


def test_a_function_with_open_options_takes_any():
    assert build({"_target_": f"{__name__}.collect", "surplus": 1}, other=2) == {
        "surplus": 1,
        "other": 2,
    }


def test_errors_of_the_constructor_pass_through(monkeypatch):
    def fail(self, **_):
        raise TypeError("inside")

    monkeypatch.setattr(Part, "__init__", fail)
    with pytest.raises(TypeError, match=r"^inside$"):
        build({"_target_": PART})


def test_plain_resolves():
    config = OmegaConf.create({"a": 1, "b": ["${a}"]})
    assert to_plain(config) == {"a": 1, "b": [1]}
    assert type(to_plain(config)["b"]) is list
    assert to_plain({"a": 1}) == {"a": 1}


def test_flat():
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {
        "a.b": 1,
        "a.c.d": [1, 2],
        "e": None,
    }
    assert flatten({"a": {}}) == {"a": {}}
    assert flatten({"a": 1}, "x/") == {"x/a": 1}


def test_key_names_need_no_values():
    assert config_keys(OmegaConf.create({"a": "${nowhere}", "b": {"c": "???"}})) == ["a", "b.c"]


def test_show_names_groups_and_values():
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    print_config(
        {"adapter": {"rank": 8, "targets": ["q"]}, "seed": 5, "logger": {}},
        console,
        {"adapter": "lora"},
    )
    told = console.export_text()
    for text in ("adapter = lora", "rank: 8", "targets: ['q']", "seed: 5"):
        assert text in told


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
    """Function of words: what the config system raises for them."""

    def find(*words):
        with pytest.raises(Exception, match=r"\S") as caught:
            compose(*words)
        assert is_config_error(caught.value)
        return caught.value

    return find


@pytest.fixture
def explained(error_of):
    def tell(*words, keys=KEYS, swept=()):
        told = explain_config_error(error_of(*words), keys, set(swept))
        assert len(told.splitlines()) == 1
        return told

    return tell


@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("adapter=lorra", "lora"),
        ("adapter=randlra", "randlora"),
        ("task=mnlii", "mnli"),
        ("model=roberta-base", "roberta_base"),
        ("trainer=cpuu", "cpu"),
        ("optimizer=adam", "adamw"),
    ],
)
def test_an_unknown_option_suggests_the_nearest(explained, word, right):
    told = explained(word)
    assert told.startswith(f"{word} is unknown: did you mean ")
    assert right in told


def test_an_option_like_none_lists_them_all(explained):
    told = explained("adapter=zzzzzz")
    assert told.startswith("adapter=zzzzzz is unknown: choose one of ")
    assert all(name in told for name in ("lora", "rlora", "vera", "nola", "full"))


@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("adapter.rnk=4", "adapter.rank"),
        ("adapter.lr=4", "optimizer.lr"),
        ("task.batchsize=4", "task.batch_size"),
        ("optimizer.learning_rate=4", "optimizer"),
        ("sed=4", "seed"),
        ("rank=4", "adapter.rank"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(explained, word, right):
    key = word.partition("=")[0]
    told = explained(word)
    assert told.startswith(f"{key} is not a key of the config: ")
    assert right in told
    assert f"+{key}=" in told


def test_a_key_beside_a_swept_group(explained):
    told = explained("adapter=lora", "adapter.num_bases=4", swept=["adapter"])
    assert "adapter.num_bases is not a key of every adapter" in told
    assert "recipe" in told


@pytest.mark.parametrize("word", ["adapter=[lora", "seed", "task.path=a,b(", "seed=1 2]"])
def test_a_syntax_error_says_to_quote(explained, word):
    assert "quote" in explained(word)


def test_an_interpolation_that_leads_nowhere(explained):
    told = explained("optimizer.lr=${nowhere}")
    assert "nowhere" in told
    assert "optimizer.lr" in told


def test_other_errors_are_not_of_the_config_system():
    assert not is_config_error(ValueError("x"))
    assert is_config_error(HydraException("x")) or not issubclass(HydraException, ValueError)


def test_partial_objects_are_not_left_over():
    assert not isinstance(build({"_target_": PART}), partial)
