"""W&B sweep files, without an account: schema, search engine, the agent's command, a first trial."""

import itertools
import warnings
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from rlora.records.record import read_record

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package was written for an older pydantic
    import sweeps

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
TINY = {"model": "tiny_encoder", "trainer": "cpu", "callbacks": "progress"}
SMALL = [
    "trainer.max_epochs=1",
    "task.train_size=60",
    "task.batch_size=20",
    "print_config=false",
    "task=lexicon",
]

pytestmark = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(file):
    return yaml.safe_load(file.read_text())


def first_trial(file):
    """What W&B's engine proposes first, by parameter."""
    return {
        name: item["value"]
        for name, item in sweeps.next_run(sweeps.SweepConfig(read(file)), []).config.items()
    }


def words_of(file, trial):
    """The words an agent would run train.py with."""
    command = create_sweep_command(read(file)["command"])
    args = create_sweep_command_args(
        {"args": {name: {"value": value} for name, value in trial.items()}}
    )
    words = []
    for word in command:
        words += args["args_no_hyphens"] if word == "${args_no_hyphens}" else [word]
    assert words[: words.index("logger=wandb")] == ["${env}", "${interpreter}", "${program}"]
    return words[words.index("logger=wandb") :]


def test_it_fits_the_schema_of_wandb(file):
    content = read(file)
    assert sweeps.schema_violations_from_proposed_config(content) == []
    assert (ROOT / content["program"]).is_file()
    assert content["metric"]["goal"] in ("maximize", "minimize")


def test_every_trial_composes(file, compose):
    """A grid's every option with every other, a search's first trials; keys that a group's options share alone."""
    content = read(file)
    grid = {
        name: item.get("values", [item.get("value", item.get("min"))])
        for name, item in content["parameters"].items()
    }
    groups = [
        name for name in grid if len(grid[name]) > 1 and name in ("task", "adapter", "regularizer")
    ]
    rest = {name: values[0] for name, values in grid.items() if name not in groups}
    for options in itertools.product(*(grid[name] for name in groups)):
        trial = {**rest, **dict(zip(groups, options, strict=True))}
        found = compose(*words_of(file, trial))
        assert {name: found.choices[name] for name in groups} == dict(
            zip(groups, options, strict=True)
        )
        assert found.config["logger"]["wandb"]["mode"] == "online"


def test_parameters_never_clash_with_the_logged_config(file, compose):
    """A parameter and a nested config of the same name would overwrite each other: keys are flat, choices are words."""
    from rlora.config.flatten import flatten

    trial = first_trial(file)
    found = compose(*words_of(file, trial))
    logged = {
        **flatten(found.config),
        **{group: found.choices[group] for group in ("task", "adapter", "regularizer")},
    }
    for name, value in trial.items():
        if name != "experiment":
            assert logged[name] == (pytest.approx(value) if isinstance(value, float) else value)
        assert not any(isinstance(value, dict) and value for value in logged.values())


@pytest.mark.cli
def test_the_first_trial_runs_and_scores_its_metric(file, train, tmp_path):
    trial = {
        name: value
        for name, value in first_trial(file).items()
        if name not in ("task", "experiment")
    }
    words = [f"{name}={value}" for name, value in TINY.items()]
    if any(name.startswith("task.s") for name in trial):
        words += ["task.shots=4"]
        trial = {name: value for name, value in trial.items() if name != "task.shots"}
    train(
        *words_of(file, trial),
        *words,
        *SMALL,
        "logger.wandb.mode=offline",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    record = read_record(tmp_path / "run")
    metric = read(file)["metric"]["name"]
    assert metric in ("final/validation_score", record.monitor)
    assert record.scores[record.monitor] > 0
    assert (tmp_path / "run" / "wandb").is_dir()
