"""Requirements on the YAML of every regularizer of conf/regularizer, and on a run under it."""

import inspect
import math

import pytest
import torch
from hydra.utils import get_object

from rlora.config.build import build
from rlora.records.record import read_record
from rlora.runs.resume import read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")


def test_the_config_has_exactly_the_options_of_the_constructor(regularizer_options):
    options = regularizer_options
    parameters = inspect.signature(get_object(options["_target_"])).parameters
    assert set(options) - {"_target_"} == set(parameters)
    for value in options.values():
        assert value is None or type(value) in (bool, int, float, str)
    assert all(parameter.kind == parameter.KEYWORD_ONLY for parameter in parameters.values())
    regularizer = build(options)
    assert math.isfinite(regularizer.mean_rate)
    assert regularizer.mean_rate > 0


def prepare(options):
    layer = torch.nn.Linear(2, 2)
    groups = {"adapter": {"weight": layer.weight}, "head": {"bias": layer.bias}}
    build(options).prepare(layer, groups, 5)


def test_bad_options_are_refused_by_key(regularizer_options):
    options = regularizer_options
    target = get_object(options["_target_"])
    for key, parameter in inspect.signature(target).parameters.items():
        if key == "prior":  # any folder may be one: checked when its run is read
            continue
        bad = "nonsense" if isinstance(parameter.default, str) else math.nan
        with pytest.raises(ValueError, match=rf"regularizer\.{key}={bad} is invalid: expected"):
            prepare(options | {key: bad})
    with pytest.raises(ValueError, match="nonsense"):
        build(options | {"nonsense": 1})


@pytest.fixture(scope="module")
def trained(regularizer_name, regularizer_options, tiny_execution, tmp_path_factory):
    """A finished run under the regularizer, with a mean rate that differs from 1."""
    folder = tmp_path_factory.mktemp(regularizer_name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(get_object(regularizer_options["_target_"]), "mean_rate", 0.5)
        parts, _ = tiny_execution("adapter=rlora", f"regularizer={regularizer_name}", folder=folder)
        yield parts, folder


def test_a_run_trains_under_it(trained, regularizer_name):
    parts, folder = trained
    record = read_record(folder)
    assert record.run.regularizer == regularizer_name
    assert math.isfinite(record.scores["validation/loss"])
    module, columns = parts.module, (folder / "metrics.csv").read_text().splitlines()[0]
    regularizer = module.regularizer
    assert all(f"train/{key}" in columns for key in regularizer.metrics())
    groups = {group["name"]: group for group in parts.trainer.optimizers[0].param_groups}
    rates = {"adapter": "lr", "head": "head_lr"}
    config = parts.plan.config["optimizer"]
    for group, key in rates.items():
        assert groups[group]["initial_lr"] == pytest.approx(config[key] * 0.5)
    for group in regularizer.parameter_groups():
        assert groups[group["name"]]["initial_lr"] == group["lr"]
    inside = {id(parameter) for parameter in module.parameters()}
    trainable = parts.adapters.adapter_parameters() | parts.adapters.head_parameters()
    assert all(id(parameter) in inside for parameter in trainable.values())


def test_a_checkpoint_holds_its_state(trained):
    parts, folder = trained
    regularizer = parts.module.regularizer
    state = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    saved = {
        key.removeprefix("regularizer."): value
        for key, value in state["state_dict"].items()
        if key.startswith("regularizer.")
    }
    assert set(saved) == set(regularizer.state_dict())
    assert state["rlora"]["prior_facts"] == regularizer.prior_facts
    regularizer.load_state_dict(saved)
    assert all(torch.equal(regularizer.state_dict()[key], value) for key, value in saved.items())
