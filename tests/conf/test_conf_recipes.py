"""Recipes: settings of a model, a task or experiment, an adapter and, if named, a regularizer."""

import re
from pathlib import Path

import pytest
import yaml

from rlora.config.flatten import flatten

CONF = Path(__file__).parents[2] / "conf"
RECIPES = sorted(
    file.relative_to(CONF / "recipe").with_suffix("") for file in (CONF / "recipe").rglob("*.yaml")
)
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=str)

# One line of train.yaml and one of each experiment select the recipe. A recipe of three parts
# tests the first; a recipe of four parts, with a regularizer, tests the second.
one_of_each_length = pytest.mark.parametrize(
    "recipe", [next(r for r in RECIPES if len(r.parts) == count) for count in (3, 4)], ids=str
)


def settings(recipe):
    """Dotted keys to values of a recipe's file, with numbers as Hydra reads them."""
    values = flatten(yaml.safe_load((CONF / "recipe" / f"{recipe}.yaml").read_text()))
    return {
        key: float(value) if isinstance(value, str) and "e-" in value else value
        for key, value in values.items()
    }


def group_of(name):
    """The group of a recipe's second part."""
    return "experiment" if (CONF / "experiment" / f"{name}.yaml").is_file() else "task"


def groups_of(recipe):
    groups = ("model", group_of(recipe.parts[1]), "adapter", "regularizer")
    return dict(zip(groups, recipe.parts, strict=False))


def overrides_of(recipe, **changes):
    groups = groups_of(recipe) | changes
    return [f"{group}={option}" for group, option in groups.items()]


@every_recipe
def test_it_names_options_that_exist(recipe):
    assert len(recipe.parts) in (3, 4)
    for group, option in groups_of(recipe).items():
        assert (CONF / group / f"{option}.yaml").is_file()


@every_recipe
def test_its_header_names_its_source(recipe):
    lines = (CONF / "recipe" / f"{recipe}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    header = " ".join(line for line in lines[1:5] if line.startswith("#"))
    assert re.search(
        r"(Published|Source|Measured): .*\b(19|20)\d\d\b.*\b(table|appendix|section|@)", header
    )


@every_recipe
def test_it_is_loaded_and_changes_only_keys_that_exist(compose, recipe):
    composed = compose(*overrides_of(recipe))
    assert composed.choices["recipe"] == recipe.as_posix()
    without = flatten(compose(*overrides_of(recipe), "~recipe").config)
    expected, values = settings(recipe), flatten(composed.config)
    assert set(expected) <= set(without)
    assert {key: values[key] for key in expected} == expected
    assert {key for key in values if values[key] != without[key]} <= set(expected)


@every_recipe
def test_an_explicit_override_wins(compose, recipe):
    other = {
        key: value * 2 + 1
        for key, value in settings(recipe).items()
        if isinstance(value, int | float)
    }
    composed = compose(*overrides_of(recipe), *(f"{key}={value}" for key, value in other.items()))
    assert composed.choices["recipe"] == recipe.as_posix()
    assert other
    values = flatten(composed.config)
    assert {key: values[key] for key in other} == other


@one_of_each_length
@pytest.mark.parametrize("change", [{"model": "tiny_encoder"}, {"adapter": "bitfit"}], ids=str)
def test_it_is_not_loaded_for_another_model_or_adapter(compose, recipe, change):
    overrides = overrides_of(recipe, **change)
    assert compose(*overrides).config == compose(*overrides, "~recipe").config


def test_a_recipe_of_a_regularizer_is_not_loaded_for_another(compose):
    recipe = next(r for r in RECIPES if len(r.parts) == 4)
    overrides = overrides_of(recipe, regularizer="pac_bayes")
    assert compose(*overrides).config == compose(*overrides, "~recipe").config
