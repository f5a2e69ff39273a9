"""Validation, test and prediction use W + dW; W is restored even after a failure."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from rlora.records.record import read_record
from rlora.training.callbacks.merged_evaluation import MergedEvaluation
from rlora.training.module import FineTuning

RANKED = ["lora", "rlora", "nola", "randlora", "vera", "dora", "lora_xs"]
ADAPTERS = [*RANKED, "fourierft"]
IN_PLACE = ["bitfit", "head", "full"]
pytestmark = pytest.mark.filterwarnings(
    "ignore:The number of training batches", "ignore:The dirpath has changed"
)


class Broken(Exception):
    """The error that stops a loop in these tests."""


def rank(adapter):
    return ["adapter.rank=2"] if adapter in RANKED else []


def frozen_weights(parts):
    """Return the frozen parameters with their addresses and copies of their values."""
    return {
        name: (parameter, parameter.data_ptr(), parameter.detach().clone())
        for name, parameter in parts.module.model.named_parameters()
        if not parameter.requires_grad
    }


def unchanged(parts, before):
    current = dict(parts.module.model.named_parameters())
    return all(
        current[name] is parameter
        and parameter.data_ptr() == address
        and torch.equal(parameter, value)
        and not parameter.is_inference()
        for name, (parameter, address, value) in before.items()
    )


@pytest.fixture
def ready(tiny_parts, tmp_path):
    """Function (*overrides): the parts of a run, not yet trained, and its frozen weights."""

    def make(*overrides):
        parts = tiny_parts("optimizer.lr=0.05", "trainer.max_epochs=2", *overrides, folder=tmp_path)
        return parts, frozen_weights(parts)

    return make


@pytest.fixture
def computed(monkeypatch):
    """The loops in which an update was computed on activations."""
    stages = []

    def watch(adapter, module):
        for name in ("forward", "linear"):
            call = getattr(adapter, name)

            def watched(*args, call=call):
                stages.append(module.trainer.state.stage.value)
                return call(*args)

            monkeypatch.setattr(adapter, name, watched)

    def start(parts):
        for adapter in parts.adapters.adapters.values():
            watch(adapter, parts.module)
        return stages

    return start


def merged(parts):
    return [wrapper.merged for wrapper in parts.adapters.layers.values()]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("model", ["tiny_encoder", "tiny_decoder"])
def test_no_update_is_computed_outside_training(ready, computed, model, adapter):
    parts, before = ready(f"model={model}", f"adapter={adapter}", *rank(adapter))
    stages = computed(parts)
    parts.trainer.fit(parts.module)
    parts.trainer.test(parts.module, verbose=False)
    assert set(stages) == {"train"}
    assert unchanged(parts, before)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_scores_equal_those_of_unmerged_evaluation(tiny_run, tmp_path, adapter):
    records = []
    for switch in ("true", "false"):
        overrides = [
            f"adapter={adapter}",
            *rank(adapter),
            "optimizer.lr=0.02",
            f"merge_for_evaluation={switch}",
        ]
        tiny_run(*overrides, folder=tmp_path / switch)
        records.append(read_record(tmp_path / switch))
    for ours, theirs in zip(records[0].training.history, records[1].training.history, strict=True):
        assert ours["train/loss"] == theirs["train/loss"]  # evaluation does not affect training
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert records[0].scores == pytest.approx(records[1].scores, rel=1e-5)


@pytest.mark.parametrize("adapter", IN_PLACE)
def test_methods_without_updates_change_no_weight(ready, adapter, monkeypatch):
    parts, before = ready(f"adapter={adapter}")
    monkeypatch.setattr(
        FineTuning,
        "on_validation_end",
        lambda self: self.untouched.append(unchanged(parts, before)),
    )
    parts.module.untouched = []
    parts.trainer.fit(parts.module)
    assert parts.module.untouched == [True, True]


def test_merge_for_evaluation_false_turns_it_off(ready, computed):
    parts, before = ready("merge_for_evaluation=false")
    stages = computed(parts)
    parts.trainer.validate(parts.module, verbose=False)
    assert set(stages) == {"validate"}
    assert unchanged(parts, before)


def test_training_continues_after_each_evaluation_in_an_epoch(ready):
    parts, before = ready("+trainer.val_check_interval=1", "adapter=nola", "adapter.rank=2")
    parts.trainer.fit(parts.module)
    assert parts.trainer.global_step == 6
    assert unchanged(parts, before)


class Watch(L.Callback):
    """Records whether the weights are merged in the hooks of other callbacks."""

    def __init__(self, parts):
        self.parts, self.seen = parts, {}

    def note(self, hook):
        self.seen.setdefault(hook, set()).update(merged(self.parts))

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
    parts, before = ready()
    watch = Watch(parts)
    saving = ModelCheckpoint(
        tmp_path / "more", save_on_train_epoch_end=False, every_n_epochs=1, save_top_k=-1
    )
    parts.trainer.callbacks[-1:] = [watch, parts.trainer.callbacks[-1], saving]
    parts.trainer.fit(parts.module)
    assert watch.seen == {"batch": {True}, "end": {False}, "checkpoint": {False}, "train": {False}}
    files = [*(tmp_path / "more").iterdir(), tmp_path / "checkpoints" / "last.ckpt"]
    assert len(files) == 3
    for file in files:
        assert not set(torch.load(file, weights_only=True)["state_dict"]) & {
            f"model.{name}" for name in before
        }


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("stage", ["validate", "test", "predict", "fit"])
def test_a_failed_evaluation_restores_the_weights(ready, monkeypatch, stage, error):
    parts, before = ready()
    watch = Watch(parts)
    parts.trainer.callbacks.append(watch)

    def fail(self, *_):
        assert all(merged(parts))
        assert not unchanged(parts, before)
        raise error

    for step in ("validation_step", "test_step", "predict_step"):
        monkeypatch.setattr(FineTuning, step, fail)
    if stage == "predict":
        monkeypatch.setattr(type(parts.task), "predict_loaders", type(parts.task).test_loaders)
    with pytest.raises(
        (Broken, SystemExit)
    ):  # the latter is what Lightning makes of KeyboardInterrupt
        getattr(parts.trainer, stage)(parts.module)
    assert watch.seen["exception"] == {False}
    assert unchanged(parts, before)


def test_a_failed_restoring_is_repeated(ready, monkeypatch):
    parts, before = ready()
    (callback,) = (c for c in parts.trainer.callbacks if isinstance(c, MergedEvaluation))
    wrapper = list(parts.adapters.layers.values())[1]
    unmerge = wrapper.unmerge

    def interrupted():
        monkeypatch.setattr(wrapper, "unmerge", unmerge)
        raise Broken

    monkeypatch.setattr(wrapper, "unmerge", interrupted)
    with pytest.raises(Broken):
        parts.trainer.validate(parts.module, verbose=False)
    assert not any(merged(parts))
    assert not callback._merged_here
    assert unchanged(parts, before)


def test_weights_merged_by_the_caller_stay_merged(ready):
    parts, before = ready()
    with parts.adapters.merged():
        parts.trainer.validate(parts.module, verbose=False)
        assert all(merged(parts))
    assert unchanged(parts, before)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
def test_merging_causes_no_recompilation(tiny_run, tmp_path):
    from torch._dynamo.utils import counters

    graphs, scores = {}, {}
    for switch in ("true", "false"):
        torch._dynamo.reset()
        counters.clear()
        overrides = [
            "compile=eager",
            "trainer.max_epochs=3",
            "model.config.num_hidden_layers=1",  # Dynamo traces each layer
            f"merge_for_evaluation={switch}",
        ]
        tiny_run(*overrides, folder=tmp_path / switch)
        graphs[switch] = counters["stats"]["unique_graphs"]
        scores[switch] = read_record(tmp_path / switch).scores
    assert graphs["true"] <= graphs["false"]
    assert scores["true"] == pytest.approx(scores["false"], rel=1e-5)
