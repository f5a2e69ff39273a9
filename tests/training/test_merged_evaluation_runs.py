"""Validation, test and prediction run with W + dW in place of W, and W comes back whatever happens."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from rlora.records.record import read_record
from rlora.training.callbacks.merged_evaluation import MergedEvaluation
from rlora.training.module import FineTuning

ADAPTERS = ["lora", "rlora", "nola", "randlora", "vera"]
IN_PLACE = ["bitfit", "head", "full"]
pytestmark = pytest.mark.filterwarnings(
    "ignore:The number of training batches", "ignore:The dirpath has changed"
)


class Broken(Exception):
    """What a loop stops with in these tests."""


def rank(adapter):
    return ["adapter.rank=2"] if adapter in ADAPTERS else []


def weights(experiment):
    """Every frozen parameter's identity, place in memory and value."""
    return {
        name: (parameter, parameter.data_ptr(), parameter.detach().clone())
        for name, parameter in experiment.module.model.named_parameters()
        if not parameter.requires_grad
    }


def unchanged(experiment, before):
    found = dict(experiment.module.model.named_parameters())
    return all(
        found[name] is parameter
        and parameter.data_ptr() == place
        and torch.equal(parameter, value)
        and not parameter.is_inference()
        for name, (parameter, place, value) in before.items()
    )


@pytest.fixture
def ready(tiny_experiment, tmp_path, monkeypatch):
    """Function (*words): an experiment with its parts built, stopped before training, and its frozen weights."""

    def make(*words):
        experiment = tiny_experiment(
            "optimizer.lr=0.05", "trainer.max_epochs=2", *words, folder=tmp_path
        )
        with monkeypatch.context() as patch:
            patch.setattr(type(experiment), "_train", lambda self: {})
            patch.setattr(type(experiment), "_finish", lambda self, scores: None)
            experiment.run()
        return experiment, weights(experiment)

    return make


@pytest.fixture
def computed(monkeypatch):
    """The loops in which an update was computed on activations."""
    found = []

    def watch(adapter, module):
        for name in ("forward", "linear"):
            call = getattr(adapter, name)

            def watched(*args, call=call):
                found.append(module.trainer.state.stage.value)
                return call(*args)

            monkeypatch.setattr(adapter, name, watched)

    def start(experiment):
        for adapter in experiment.adapters.adapters.values():
            watch(adapter, experiment.module)
        return found

    return start


def merged(experiment):
    return [wrapper.merged for wrapper in experiment.adapters.layers.values()]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("model", ["tiny_encoder", "tiny_decoder"])
def test_no_update_is_computed_outside_training(ready, computed, model, adapter):
    experiment, before = ready(f"model={model}", f"adapter={adapter}", *rank(adapter))
    stages = computed(experiment)
    experiment.trainer.fit(experiment.module)
    experiment.trainer.test(experiment.module, verbose=False)
    assert set(stages) == {"train"}
    assert unchanged(experiment, before)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_scores_are_those_of_unmerged_evaluation(tiny_run, tmp_path, adapter):
    records = []
    for switch in ("true", "false"):
        words = [
            f"adapter={adapter}",
            *rank(adapter),
            "optimizer.lr=0.02",
            f"merge_for_evaluation={switch}",
        ]
        tiny_run(*words, folder=tmp_path / switch)
        records.append(read_record(tmp_path / switch))
    for ours, theirs in zip(records[0].training.history, records[1].training.history, strict=True):
        assert ours["train/loss"] == theirs["train/loss"]  # evaluation leaves no trace in training
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert records[0].scores == pytest.approx(records[1].scores, rel=1e-5)


@pytest.mark.parametrize("adapter", IN_PLACE)
def test_methods_without_updates_are_left_alone(ready, adapter, monkeypatch):
    experiment, before = ready(f"adapter={adapter}")
    monkeypatch.setattr(
        FineTuning,
        "on_validation_end",
        lambda self: self.untouched.append(unchanged(experiment, before)),
    )
    experiment.module.untouched = []
    experiment.trainer.fit(experiment.module)
    assert experiment.module.untouched == [True, True]


def test_the_switch_leaves_it_out(ready, computed):
    experiment, before = ready("merge_for_evaluation=false")
    stages = computed(experiment)
    experiment.trainer.validate(experiment.module, verbose=False)
    assert set(stages) == {"validate"}
    assert unchanged(experiment, before)


def test_training_goes_on_after_each_evaluation_in_an_epoch(ready):
    experiment, before = ready("+trainer.val_check_interval=1", "adapter=nola", "adapter.rank=2")
    experiment.trainer.fit(experiment.module)
    assert experiment.trainer.global_step == 6
    assert unchanged(experiment, before)


class Watch(L.Callback):
    """Notes whether the weights are merged where others, such as checkpoints and loggers, look at them."""

    def __init__(self, experiment):
        self.experiment, self.seen = experiment, {}

    def note(self, hook):
        self.seen.setdefault(hook, set()).update(merged(self.experiment))

    def on_validation_batch_start(self, *_, **__):
        self.note("batch")

    def on_validation_end(self, *_):
        self.note("end")

    def on_exception(self, *_):
        self.note("exception")

    def on_save_checkpoint(self, *_):
        self.note("checkpoint")

    def on_train_batch_start(self, *_):
        self.note("train")


def test_nothing_is_saved_or_trained_while_merged(ready, tmp_path):
    experiment, before = ready()
    watch = Watch(experiment)
    saving = ModelCheckpoint(
        tmp_path / "more", save_on_train_epoch_end=False, every_n_epochs=1, save_top_k=-1
    )
    experiment.trainer.callbacks[-1:] = [watch, experiment.trainer.callbacks[-1], saving]
    experiment.trainer.fit(experiment.module)
    assert watch.seen == {"batch": {True}, "end": {False}, "checkpoint": {False}, "train": {False}}
    files = [*(tmp_path / "more").iterdir(), tmp_path / "checkpoints" / "last.ckpt"]
    assert len(files) == 3
    for file in files:
        assert not set(torch.load(file, weights_only=True)["state_dict"]) & {
            f"model.{name}" for name in before
        }


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("stage", ["validate", "test", "predict", "fit"])
def test_a_failure_within_brings_the_weights_back(ready, monkeypatch, stage, error):
    experiment, before = ready()
    watch = Watch(experiment)
    experiment.trainer.callbacks.append(watch)

    def fail(self, *_):
        assert all(merged(experiment))
        assert not unchanged(experiment, before)
        raise error

    for step in ("validation_step", "test_step", "predict_step"):
        monkeypatch.setattr(FineTuning, step, fail)
    if stage == "predict":
        monkeypatch.setattr(
            type(experiment.task), "predict_loaders", type(experiment.task).test_loaders
        )
    with pytest.raises(
        (Broken, SystemExit)
    ):  # the latter is what Lightning makes of KeyboardInterrupt
        getattr(experiment.trainer, stage)(experiment.module)
    assert watch.seen["exception"] == {False}
    assert unchanged(experiment, before)


def test_a_failure_while_restoring_is_made_good(ready, monkeypatch):
    experiment, before = ready()
    (callback,) = (c for c in experiment.trainer.callbacks if isinstance(c, MergedEvaluation))
    wrapper, unmerge = (
        list(experiment.adapters.layers.values())[1],
        list(experiment.adapters.layers.values())[1].unmerge,
    )

    def interrupted():
        monkeypatch.setattr(wrapper, "unmerge", unmerge)
        raise Broken

    monkeypatch.setattr(wrapper, "unmerge", interrupted)
    with pytest.raises(Broken):
        experiment.trainer.validate(experiment.module, verbose=False)
    assert not any(merged(experiment))
    assert not callback._mine
    assert unchanged(experiment, before)


def test_it_does_not_undo_what_the_caller_merged(ready):
    experiment, before = ready()
    with experiment.adapters.merged():
        experiment.trainer.validate(experiment.module, verbose=False)
        assert all(merged(experiment))
    assert unchanged(experiment, before)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
def test_a_compiled_backbone_is_compiled_no_more_often(tiny_run, tmp_path):
    from torch._dynamo.utils import counters

    graphs, scores = {}, {}
    for switch in ("true", "false"):
        torch._dynamo.reset()
        counters.clear()
        words = ["compile=eager", "trainer.max_epochs=3", f"merge_for_evaluation={switch}"]
        tiny_run(*words, folder=tmp_path / switch)
        graphs[switch] = counters["stats"]["unique_graphs"]
        scores[switch] = read_record(tmp_path / switch).scores
    assert graphs["true"] <= graphs["false"]
    assert scores["true"] == pytest.approx(scores["false"], rel=1e-5)
