"""The callback that merges for evaluation: where it does not merge, and its messages."""

import logging

import pytest
import torch
from torch import nn

from rlora.adapters import AdapterSet, inject
from rlora.adapters.lora import LoRA
from rlora.training.callbacks.merged_evaluation import MergedEvaluation

pytestmark = pytest.mark.filterwarnings(
    "ignore:The number of training batches", "ignore:The dirpath has changed"
)


class Layers(nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(2))
        if shared:
            self.blocks[1][0].weight = self.blocks[0][0].weight


def adapted(shared=False):
    return inject(Layers(shared), LoRA(rank=2, targets="all-linear"))


def test_a_shared_weight_is_reported_once(caplog):
    adapters = adapted(shared=True)
    callback = MergedEvaluation(adapters)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            callback.on_validation_start(None, None)
            assert not adapters.is_merged
            callback.on_validation_end(None, None)
    (line,) = caplog.messages
    assert "shares its weight" in line
    assert "unmerged" in line


def test_a_run_with_a_shared_weight_evaluates_unmerged(tiny_execution, tmp_path, monkeypatch):
    from rlora.models import random_init

    make = random_init.random_model

    def tied(*args, **options):
        backbone = make(*args, **options)
        first, second = (layer.attention.self for layer in backbone.model.bert.encoder.layer)
        second.query.weight = first.query.weight
        return backbone

    monkeypatch.setattr(random_init, "random_model", tied)
    parts, record = tiny_execution("adapter.targets=[q]", folder=tmp_path)
    assert len({id(wrapper.weight) for wrapper in parts.adapters.layers.values()}) == 1
    assert "test/accuracy" in record.scores


def test_a_quantized_weight_stays_unmerged(caplog):
    adapters = adapted()
    base = next(iter(adapters.layers.values())).base
    base.weight = nn.Parameter(torch.ones(8, 8, dtype=torch.int8), requires_grad=False)
    with caplog.at_level(logging.INFO):
        MergedEvaluation(adapters).on_test_start(None, None)
    assert not adapters.is_merged
    assert "quantized" in caplog.text


def test_too_little_memory_gives_one_warning(monkeypatch, caplog):
    adapters, tries = adapted(), []

    def full(self):
        tries.append(self)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AdapterSet, "merge", full)
    callback = MergedEvaluation(adapters)
    for _ in range(3):
        callback.on_validation_start(None, None)
        callback.on_validation_end(None, None)
    assert len(tries) == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "merge_for_evaluation=false" in record.message


def test_an_error_of_an_adapter_is_raised(monkeypatch):
    adapters = adapted()
    list(adapters.layers.values())[1].adapters()[0].delta = lambda: torch.zeros(3, 5, 7)
    with pytest.raises(RuntimeError):
        MergedEvaluation(adapters).on_validation_start(None, None)
    assert not adapters.is_merged


def test_weights_merged_in_inference_mode_can_train():
    adapters = adapted()
    wrapper, callback = next(iter(adapters.layers.values())), MergedEvaluation(adapters)
    with torch.inference_mode():
        callback.on_validation_start(None, None)
        assert wrapper.merged
        assert not wrapper.weight.is_inference()
        callback.on_validation_end(None, None)
    assert not wrapper.weight.is_inference()
    wrapper(torch.ones(2, 8, requires_grad=True)).sum().backward()
