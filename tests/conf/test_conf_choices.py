"""A task's own default model; an explicit one wins, in any order of the words."""

from pathlib import Path

import pytest
import yaml

CONF = Path(__file__).parents[2] / "conf"
MODELS = {
    "glue": "roberta_base",
    "lexicon": "minilm",
    "data_to_text": "gpt2_medium",
    "text_column": "gpt2_mini",
    "question_answering": "llama_7b",
}
TASKS = sorted(file.stem for file in (CONF / "task").glob("*.yaml"))


@pytest.mark.parametrize("task", TASKS)
def test_a_task_brings_its_model(compose, task):
    family = yaml.safe_load((CONF / "task" / f"{task}.yaml").read_text())["task"]["_target_"].split(
        "."
    )[2]
    assert compose(f"task={task}").choices["model"] == MODELS[family]


@pytest.mark.parametrize(
    "words", [("task=rte", "model=tiny_encoder"), ("model=tiny_encoder", "task=rte")]
)
def test_an_explicit_model_wins_over_glue(compose, words):
    found = compose(*words)
    assert (found.choices["task"], found.choices["model"]) == ("rte", "tiny_encoder")
    assert found.config["model"]["_target_"] == "rlora.models.random_init.random_model"


@pytest.mark.parametrize(
    "words", [("task=lexicon", "model=roberta_base"), ("model=roberta_base", "task=lexicon")]
)
def test_an_explicit_model_wins_over_lexicon(compose, words):
    found = compose(*words)
    assert found.choices["model"] == "roberta_base"
    assert found.config["model"]["path"] == "FacebookAI/roberta-base"


def test_the_default_run(compose):
    chosen = compose().choices
    assert {key: chosen[key] for key in ("task", "model", "adapter", "regularizer")} == {
        "task": "lexicon",
        "model": "minilm",
        "adapter": "rlora",
        "regularizer": "none",
    }


@pytest.mark.parametrize(
    "words", [("adapter=lora", "optimizer.lr=0.5"), ("optimizer.lr=0.5", "adapter=lora")]
)
def test_a_key_on_the_command_line_wins_over_the_adapter(compose, words):
    assert compose(*words).config["optimizer"]["lr"] == 0.5


def test_each_adapter_sets_its_learning_rates(compose):
    for file in (CONF / "adapter").glob("*.yaml"):
        rates = yaml.safe_load(file.read_text())["optimizer"]
        found = compose(f"adapter={file.stem}").config["optimizer"]
        assert {"lr", "head_lr"} == set(rates), file.stem
        assert {key: found[key] for key in rates} == {
            key: float(value) for key, value in rates.items()
        }, file.stem
