"""Default options: a task chooses its model, and an explicit model wins in any order."""

from pathlib import Path

import pytest
import yaml

CONF = Path(__file__).parents[2] / "conf"
ADAPTERS = sorted(file.stem for file in (CONF / "adapter").glob("*.yaml"))
TASKS = sorted(file.stem for file in (CONF / "task").glob("[!_]*.yaml"))
MODELS = {
    "glue": "roberta_base",
    "lexicon": "minilm",
    "data_to_text": "gpt2_medium",
    "text_column": "gpt2_mini",
    "question_answering": "llama_7b",
}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_chooses_its_model(compose, task):
    composed = compose(f"task={task}")
    family = composed.config["task"]["_target_"].split(".")[2]
    assert composed.choices["model"] == MODELS[family]


@pytest.mark.parametrize(
    "overrides", [("task=rte", "model=tiny_encoder"), ("model=tiny_encoder", "task=rte")]
)
def test_an_explicit_model_wins_over_glue(compose, overrides):
    composed = compose(*overrides)
    assert composed.choices["task"] == "rte"
    assert composed.choices["model"] == "tiny_encoder"
    assert composed.config["model"]["_target_"] == "rlora.models.random_init.random_model"


@pytest.mark.parametrize(
    "overrides", [("task=lexicon", "model=roberta_base"), ("model=roberta_base", "task=lexicon")]
)
def test_an_explicit_model_wins_over_lexicon(compose, overrides):
    composed = compose(*overrides)
    assert composed.choices["model"] == "roberta_base"
    assert composed.config["model"]["path"] == "FacebookAI/roberta-base"


def test_the_default_run(compose):
    choices = compose().choices
    assert {key: choices[key] for key in ("task", "model", "adapter", "regularizer")} == {
        "task": "lexicon",
        "model": "minilm",
        "adapter": "rlora",
        "regularizer": "none",
    }


@pytest.mark.parametrize(
    "overrides", [("adapter=lora", "optimizer.lr=0.5"), ("optimizer.lr=0.5", "adapter=lora")]
)
def test_a_key_on_the_command_line_wins_over_the_adapter(compose, overrides):
    assert compose(*overrides).config["optimizer"]["lr"] == 0.5


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_each_adapter_sets_its_learning_rates(compose, adapter):
    rates = yaml.safe_load((CONF / "adapter" / f"{adapter}.yaml").read_text())["optimizer"]
    optimizer = compose(f"adapter={adapter}").config["optimizer"]
    assert set(rates) == {"lr", "head_lr"}
    assert {key: optimizer[key] for key in rates} == {
        key: float(value) for key, value in rates.items()
    }
