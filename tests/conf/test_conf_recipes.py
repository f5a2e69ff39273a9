"""Recipes: settings of a model, a task or experiment, an adapter and, where named, a regularizer; of those alone."""

import re
from pathlib import Path

import pytest
import yaml

from rlora.config.flatten import flatten

CONF = Path(__file__).parents[2] / "conf"
RECIPES = sorted(
    file.relative_to(CONF / "recipe").with_suffix("") for file in (CONF / "recipe").rglob("*.yaml")
)
pytestmark = pytest.mark.parametrize("recipe", RECIPES, ids=str)


def settings(recipe):
    """Dotted keys to values of a recipe's file, numbers as Hydra reads them."""
    read = flatten(yaml.safe_load((CONF / "recipe" / f"{recipe}.yaml").read_text()))
    return {
        key: float(value) if isinstance(value, str) and "e-" in value else value
        for key, value in read.items()
    }


def group_of(name):
    """The group of a recipe's second part."""
    return "experiment" if (CONF / "experiment" / f"{name}.yaml").is_file() else "task"


def groups_of(recipe):
    groups = ("model", group_of(recipe.parts[1]), "adapter", "regularizer")
    return dict(zip(groups, recipe.parts, strict=False))


def words_of(recipe):
    return [f"{group}={option}" for group, option in groups_of(recipe).items()]


def test_it_names_what_exists(recipe):
    assert len(recipe.parts) in (3, 4)
    for group, option in groups_of(recipe).items():
        assert (CONF / group / f"{option}.yaml").is_file()


def test_its_header_names_its_source(recipe):
    lines = (CONF / "recipe" / f"{recipe}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    header = " ".join(line for line in lines[1:5] if line.startswith("#"))
    assert re.search(
        r"(Published|Source|Measured): .*\b(19|20)\d\d\b.*\b(table|appendix|section|@)", header
    )


def test_it_is_loaded_and_changes_only_keys_that_exist(compose, recipe):
    chosen = compose(*words_of(recipe))
    assert chosen.choices["recipe"] == recipe.as_posix()
    without = flatten(compose(*words_of(recipe), "~recipe").config)
    expected, found = settings(recipe), flatten(chosen.config)
    assert set(expected) <= set(without)
    assert {key: found[key] for key in expected} == expected
    assert {key for key in found if found[key] != without[key]} <= set(expected)


def test_it_is_not_loaded_for_another_model(compose, recipe):
    words = [*words_of(recipe)[1:], "model=tiny_encoder"]
    assert compose(*words).config == compose(*words, "~recipe").config


def test_it_is_not_loaded_for_another_adapter(compose, recipe):
    words = [*words_of(recipe)[:2], "adapter=bitfit"]
    assert compose(*words).config == compose(*words, "~recipe").config


def test_an_explicit_word_wins(compose, recipe):
    other = {
        key: value * 2 + 1
        for key, value in settings(recipe).items()
        if isinstance(value, int | float)
    }
    found = compose(*words_of(recipe), *(f"{key}={value}" for key, value in other.items()))
    assert found.choices["recipe"] == recipe.as_posix()
    assert other
    assert {key: value for key, value in flatten(found.config).items() if key in other} == other
