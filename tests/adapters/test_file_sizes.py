"""Adapter files hold trained and derived tensors only: sizes on the shapes of RoBERTa base."""

import pytest
from transformers import AutoModelForSequenceClassification, RobertaConfig

from rlora.adapters import checkpoint, inject
from rlora.adapters.lora import LoRA
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
