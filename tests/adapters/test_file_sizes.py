"""Adapter files hold trained and derived tensors only: sizes on the shapes of RoBERTa base."""

import pytest
from transformers import AutoModelForSequenceClassification, RobertaConfig

from rlora.adapters import checkpoint, inject
from rlora.adapters.fourierft import FourierFT
from rlora.adapters.lora import LoRA
from rlora.adapters.lora_xs import LoRAXS
from rlora.adapters.randlora import RandLoRA
from rlora.adapters.rlora import RLoRA

BASE = RobertaConfig(
    vocab_size=100, num_labels=2
)  # the vocabulary is not adapted; the blocks have their true shapes


@pytest.mark.parametrize(
    ("method", "parameters", "megabytes"),
    [
        (LoRA(rank=8, targets=["q", "v"]), 294_912, 1.2),
        (RLoRA(rank=8, targets=["q", "v"]), 36_864, 0.155),
        (RandLoRA(rank=32, targets=["q", "v"]), 24 * 24 * (32 + 768), 1.86),
        (FourierFT(num_frequencies=1000, targets=["q", "v"]), 24_000, 0.1),
    ],
)
def test_adapter_file_of_roberta_base(tmp_path, method, parameters, megabytes):
    net = AutoModelForSequenceClassification.from_config(BASE)
    head = [name for name, _ in net.named_parameters() if name.startswith("classifier.")]
    adapters = inject(net, method, head=head)
    assert adapters.report().adapter == parameters
    size = checkpoint.save(
        adapters, tmp_path / "adapter", backbone={"source": "none", "fingerprint": ""}, extra={}
    )
    assert size == (tmp_path / "adapter" / checkpoint.ADAPTER_FILE).stat().st_size
    assert 4 * parameters < size < 1e6 * megabytes


def test_a_file_of_derived_tensors_holds_them_in_addition(tmp_path):
    net = AutoModelForSequenceClassification.from_config(
        RobertaConfig(vocab_size=100, num_labels=2, num_hidden_layers=1)
    )
    adapters = inject(net, LoRAXS(rank=16, targets=["q", "v"]))
    size = checkpoint.save(adapters, tmp_path / "adapter")
    trained, derived = 2 * 16 * 16, 2 * 16 * (768 + 768)
    assert adapters.report().adapter == trained
    assert 4 * (trained + derived) < size < 4 * (trained + derived) + 2_000
