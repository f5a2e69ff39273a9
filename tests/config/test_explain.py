"""One sentence for each config error, with the names that the chosen options have."""

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from rlora.config.explain import (
    compose_groups,
    explain_config_error,
    is_config_error,
    without_null_groups,
)

CONF = Path(__file__).parents[2] / "conf"


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
    """Function (*overrides, failing): the sentence for the error that composing raises."""

    def explain(*overrides, failing=None):
        error = error_of(*(failing or overrides))
        GlobalHydra.instance().clear()
        message = explain_config_error(error, compose_groups(overrides, CONF))
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


def test_shared_files_are_no_options(explained):
    message = explained("task=glue")
    assert "sst2" in message
    assert "_glue" not in message


@pytest.mark.parametrize(
    ("override", "chosen", "right"),
    [
        ("adapter.rnk=4", "adapter=rlora", "adapter.rank"),
        ("adapter.lr=4", "adapter=rlora", "optimizer.lr"),
        ("task.batchsize=4", "task=lexicon", "task.batch_size"),
        ("optimizer.learning_rate=4", "optimizer=adamw", "optimizer.lr"),
        ("sed=4", "the config", "seed"),
        ("rank=4", "the config", "adapter.rank"),
    ],
)
def test_an_unknown_key_suggests_the_closest(explained, override, chosen, right):
    key = override.partition("=")[0]
    message = explained(override)
    assert message.startswith(f"{key} is not a key of {chosen}: did you mean ")
    assert right in message
    assert "_target_" not in message
    # the constructors of adapters, tasks and optimizers take no other options
    assert (f"+{key}=" in message) == (chosen == "the config")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["task=e2e", "task.shots=3"], "task.shots is not a key of task=e2e: its options are name"),
        (["experiment=e2e_mini", "task.shots=3"], "task.shots is not a key of task=e2e: its"),
        (["adapter=bitfit", "adapter.rank=4"], "adapter.rank is not a key of adapter=bitfit: it "),
        (["adapter=lora", "adapter.num_bases=4"], "adapter=lora: its options are rank, alpha"),
        (["task=e2e", "model.folder=x"], "model.folder is not a key of model=gpt2_medium: its"),
    ],
    ids=" ".join,
)
def test_options_are_those_of_the_chosen_group_member(explained, overrides, expected):
    assert expected in explained(*overrides)


def test_an_option_that_the_config_leaves_to_its_default_is_added(explained):
    message = explained("trainer.limit_train_batches=3")
    assert message.endswith("add it as +trainer.limit_train_batches=...")


def test_a_task_in_another_folder_has_its_own_keys(tmp_path, error_of):
    lexicon = (CONF / "task" / "lexicon.yaml").read_text()
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text(lexicon.replace("train_examples", "rows_wanted"))
    error = error_of("task.no_such_key=3")
    GlobalHydra.instance().clear()
    for flags in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        composition = compose_groups([*flags, "task=mine"], CONF)
        assert composition.choices["task"] == "mine"
        assert "task.rows_wanted" in composition.keys
        assert "task.train_examples" not in composition.keys
        assert "task=mine" in explain_config_error(error, composition)


def test_a_key_that_not_every_swept_option_has(explained):
    failing = ("adapter=lora", "adapter.num_bases=4")
    for swept in ("adapter=lora,nola", "adapter=choice(lora,nola)", "experiment=e2e_mini"):
        message = explained(swept, "adapter.num_bases=4", failing=failing)
        assert "adapter.num_bases is not a key of every adapter" in message
        assert "recipe" in message
    message = explained("adapter=lora,nola", failing=("adapter=lora", "adapter.rnk=4"))
    assert "did you mean adapter.rank" in message


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


def test_null_leaves_out_a_group(compose):
    arguments = ["experiment=None", "debug=null", "logger=none", "task.path=None", "-m"]
    kept = without_null_groups(arguments, CONF)
    assert kept == ["~experiment", "~debug", "logger=none", "task.path=None", "-m"]
    assert "experiment" not in compose(*kept[:-1]).choices
