"""A training step never waits for the device: the host reads none of its results."""

import traceback
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch.utils._python_dispatch import TorchDispatchMode

from rlora.adapters import inject
from rlora.config.build import build
from rlora.data.batch import Batch
from rlora.training.attention_masks import known_padding
from rlora.training.callbacks.progress import Progress
from rlora.training.callbacks.recorder import Recorder

FAMILIES = {
    "bert": ["model=tiny_encoder"],
    "roberta": ["model=tiny_encoder", "model.config.model_type=roberta"],
    "deberta": ["model=tiny_encoder", "model.config.model_type=deberta-v2"],
    "gpt2": ["model=tiny_decoder"],
    "llama": ["model=tiny_encoder", "model.config.model_type=llama"],
    "mistral": [  # a window of attention shorter than the texts
        "model=tiny_encoder",
        "model.config.model_type=mistral",
        "+model.config.num_key_value_heads=1",
        "+model.config.sliding_window=4",
    ],
}
SYNCHRONIZING = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "equal",
}
# functions (file, name) that read the memory of the host, whatever the device
ON_THE_HOST = {
    ("batch.py", "make_batch"),  # the batch before it goes to the device
    ("supervised.py", "loss"),  # labels, read on a CPU only
    ("adamw.py", "_single_tensor_adamw"),  # the optimizer counts its steps on the host
    ("adam.py", "_single_tensor_adam"),
}
# an epoch without a logger, whose last step reads the loss
UNLOGGED = ("logger=none", "trainer.log_every_n_steps=100")
family = pytest.mark.parametrize("family", FAMILIES)


class Reads(TorchDispatchMode):
    """Record the stacks in which the host reads the values of a tensor."""

    def __init__(self):
        super().__init__()
        self.stacks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in SYNCHRONIZING:
            frames = [
                (frame.filename.rpartition("/")[2], frame.name)
                for frame in traceback.extract_stack()
            ]
            if not ON_THE_HOST & set(frames):
                self.stacks.append([func.overloadpacket.__name__, *frames[-10:-1]])
        return func(*args, **(kwargs or {}))


@pytest.fixture
def reads(monkeypatch):
    """Reads in Lightning's training batches: from fetching to the optimizer and logging."""
    recorder, advance = Reads(), _TrainingEpochLoop.advance

    def watched(loop, fetcher):
        with recorder:
            advance(loop, fetcher)

    monkeypatch.setattr(_TrainingEpochLoop, "advance", watched)
    return recorder


@pytest.fixture
def backbone(compose):
    def make(name):
        return build(
            compose(*FAMILIES[name]).config["model"], kind="classification", num_labels=2, seed=0
        )

    return make


@pytest.mark.parametrize("noise", ["per_step", "per_example"])
@pytest.mark.parametrize("objective", ["quadratic", "kl", "pac_tuning"])
def test_no_regularizer_reads(tiny_run, tmp_path, reads, objective, noise):
    overrides = [
        "regularizer=pac_bayes",
        f"regularizer.objective={objective}",
        f"regularizer.noise={noise}",
    ]
    tiny_run(*overrides, "trainer.max_epochs=1", *UNLOGGED, folder=tmp_path)
    assert reads.stacks == []


@family
def test_nothing_is_read_in_a_step(tiny_run, tmp_path, reads, family):
    overrides = [
        "trainer.max_epochs=1",
        "trainer.accumulate_grad_batches=2",
        *UNLOGGED,
    ]
    tiny_run(*FAMILIES[family], *overrides, folder=tmp_path)
    assert reads.stacks == []


RANKED = ["lora", "nola", "randlora", "vera", "dora", "lora_xs"]


@pytest.mark.parametrize("adapter", [*RANKED, "fourierft", "bitfit", "head", "full"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_no_adapter_reads(tiny_run, tmp_path, reads, family, adapter):
    overrides = ["trainer.max_epochs=1", *UNLOGGED, f"adapter={adapter}"]
    rank = ["adapter.rank=2"] if adapter in RANKED else []
    tiny_run(*FAMILIES[family], *overrides, *rank, folder=tmp_path)
    assert reads.stacks == []


@pytest.mark.parametrize(("terminal", "readings"), [(True, 3), (False, 0)])
def test_the_log_and_the_progress_line_read_when_they_are_due(
    tiny_run, tmp_path, reads, monkeypatch, terminal, readings
):
    monkeypatch.setattr(Progress, "in_place", terminal)
    monkeypatch.setattr("rlora.training.callbacks.progress.SECONDS", 0.0)  # a redraw at each batch
    overrides = [
        "task.batch_size=5",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=true",
        "trainer.log_every_n_steps=6",
        "callbacks.progress.refresh_rate=4",
    ]  # 12 batches
    tiny_run(*overrides, folder=tmp_path)
    readers = [
        [frame for frame in stack[1:] if frame[0] in ("progress.py", "logger_connector.py")]
        for stack in reads.stacks
    ]
    line = sum(("progress.py", "_read_loss") in stack for stack in readers)
    log = sum(("logger_connector.py", "log_metrics") in stack for stack in readers)
    assert (line, log, len(readers)) == (readings, 2, readings + 2)


def test_reading_the_mask_would_be_noticed(tiny_run, tmp_path, reads, monkeypatch):
    monkeypatch.setattr("rlora.training.module.known_padding", lambda padded: known_padding(None))
    tiny_run("trainer.max_epochs=1", *UNLOGGED, folder=tmp_path)
    assert len(reads.stacks) == 3  # one per batch
    assert all(
        ("masking_utils.py", "_ignore_bidirectional_mask_sdpa") in stack for stack in reads.stacks
    )


@family
@pytest.mark.parametrize("padded", [True, False])
def test_a_step_runs_on_tensors_without_values(family, padded, backbone, compose):
    """On the meta device a tensor has no values; what the adapters do is watched above."""
    config = compose("adapter=full").config
    made = backbone(family)
    adapters = inject(
        made.model.to("meta"),
        build(config["adapter"]),
        head=made.head_parameters(["classifier", "score"]),
    )
    groups = {"adapter": adapters.adapter_parameters(), "head": adapters.head_parameters()}
    optimizer = build(config["optimizer"], groups)
    schedule = build(config["scheduler"], optimizer, total_steps=3)
    zeros = torch.zeros(4, dtype=torch.int64, device="meta")
    ids = torch.zeros(4, 7, dtype=torch.int64, device="meta")
    batch = Batch(
        inputs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        labels=zeros,
        index=zeros,
        num_tokens=28,
        padded=padded,
    )
    with known_padding(padded):
        outputs = made.model.train()(**batch["inputs"])
    build(config["task"]).loss(outputs, batch).backward()
    torch.nn.utils.clip_grad_norm_([p for group in groups.values() for p in group.values()], 1.0)
    optimizer.step()
    schedule.step()
    Recorder().on_train_batch_end(SimpleNamespace(), SimpleNamespace(), None, batch, 0)


def test_the_meta_device_refuses_to_read_the_mask(backbone):
    net = backbone("bert").model.to("meta")
    ids = torch.zeros(4, 7, dtype=torch.int64, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        net(input_ids=ids, attention_mask=torch.ones_like(ids))


@family
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", [0, 3])
def test_known_padding_changes_no_bit(family, attention, padding, backbone):
    net = backbone(family).model.eval()
    if family != "deberta":
        net.set_attn_implementation(attention)
    ids = torch.randint(5, 200, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padding:
        mask[1:, :padding] = 0  # on the left, or no token of a causal model would attend to it
        ids[1:, :padding] = net.config.pad_token_id
    expected = net(input_ids=ids, attention_mask=mask).logits
    with known_padding(padding > 0):
        assert torch.equal(net(input_ids=ids, attention_mask=mask).logits, expected)
    if padding and family != "deberta":
        with known_padding(False):  # believed, not checked
            assert not torch.equal(net(input_ids=ids, attention_mask=mask).logits, expected)
