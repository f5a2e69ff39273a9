"""W&B sweep files, without an account: schema, search engine, agent command, first trial."""

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

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(file):
    return yaml.safe_load(file.read_text())


def first_trial(file):
    """Return the first trial that W&B's engine proposes, by parameter."""
    return {
        name: item["value"]
        for name, item in sweeps.next_run(sweeps.SweepConfig(read(file)), []).config.items()
    }


def overrides_of(file, trial):
    """Return the overrides with which an agent runs train.py."""
    command = create_sweep_command(read(file)["command"])
    values = {name: {"value": value} for name, value in trial.items()}
    parameters = create_sweep_command_args({"args": values})
    arguments = []
    for part in command:
        arguments += parameters["args_no_hyphens"] if part == "${args_no_hyphens}" else [part]
    start = arguments.index("logger=wandb")
    assert arguments[:start] == ["${env}", "${interpreter}", "${program}"]
    return arguments[start:]


def pairs_of(options):
    """Yield choices, by group, in which every option occurs with every option of each other group.

    All pairs of the first two groups occur once. Further groups rotate over these.
    """
    groups = list(options)
    for numbers in itertools.product(*(range(len(options[group])) for group in groups[:2])):
        rest = [sum(numbers) % len(options[group]) for group in groups[2:]]
        yield {g: options[g][n] for g, n in zip(groups, [*numbers, *rest], strict=True)}


@each_file
def test_a_sweep_file_fits_the_schema_of_wandb(file):
    content = read(file)
    assert sweeps.schema_violations_from_proposed_config(content) == []
    assert (ROOT / content["program"]).is_file()
    assert content["metric"]["goal"] in ("maximize", "minimize")


@each_file
def test_every_trial_composes(file, compose):
    """A grid's options in all pairs, or a search's first values."""
    parameters = read(file)["parameters"]
    grid = {
        name: item.get("values", [item.get("value", item.get("min"))])
        for name, item in parameters.items()
    }
    groups = {
        name: values
        for name, values in grid.items()
        if len(values) > 1 and name in ("task", "adapter", "regularizer")
    }
    rest = {name: values[0] for name, values in grid.items() if name not in groups}
    seen = set()
    for options in pairs_of(groups):
        composed = compose(*overrides_of(file, {**rest, **options}))
        assert {name: composed.choices[name] for name in options} == options
        assert composed.config["logger"]["wandb"]["mode"] == "online"
        seen |= set(itertools.combinations(options.items(), 2))
    for one, other in itertools.combinations(groups, 2):
        pairs = itertools.product(groups[one], groups[other])
        assert {((one, x), (other, y)) for x, y in pairs} <= seen


@each_file
def test_parameters_never_clash_with_the_logged_config(file, compose):
    """A parameter and a nested config of one name would overwrite each other at W&B."""
    from rlora.config.flatten import flatten

    trial = first_trial(file)
    composed = compose(*overrides_of(file, trial))
    choices = {group: composed.choices[group] for group in ("task", "adapter", "regularizer")}
    logged = {**flatten(composed.config), **choices}
    for name, value in trial.items():
        if name != "experiment":
            assert logged[name] == (pytest.approx(value) if isinstance(value, float) else value)
        assert not any(isinstance(value, dict) and value for value in logged.values())


def small_trial(file):
    """Return overrides that run the first trial of a sweep on a tiny model and a few words."""
    trial = {
        name: value
        for name, value in first_trial(file).items()
        if name not in ("task", "experiment")
    }
    more = [f"{name}={value}" for name, value in TINY.items()]
    if any(name.startswith("task.s") for name in trial):
        more += ["task.shots=4"]
        trial.pop("task.shots", None)
    return [*overrides_of(file, trial), *more, *SMALL, "logger.wandb.mode=offline"]


def check_run(file, folder):
    record = read_record(folder)
    metric = read(file)["metric"]["name"]
    assert metric in ("final/validation_score", record.monitor)
    assert record.scores[record.monitor] > 0
    assert (folder / "wandb").is_dir()


@each_file
def test_the_first_trial_runs_and_scores_its_metric(file, tiny_run, tmp_path):
    folder = tmp_path / "run"
    tiny_run(*small_trial(file), folder=folder)
    check_run(file, folder)


@pytest.mark.cli
def test_an_agent_runs_the_first_trial(train, tmp_path):
    file = ROOT / "sweeps" / "pac_bayes.yaml"
    train(*small_trial(file), f"hydra.run.dir={tmp_path / 'run'}")
    check_run(file, tmp_path / "run")
