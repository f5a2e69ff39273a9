"""Contract of every adapter of conf/adapter: start, training, record, files, merging."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rlora.adapters import checkpoint
from rlora.config.allowlist import CONFIG_FORMAT
from rlora.records.record import read_record

ADAPTERS = sorted(
    file.stem for file in (Path(__file__).parents[2] / "conf" / "adapter").glob("*.yaml")
)
MODELS = ("tiny_encoder", "tiny_decoder")
PAIRS = [pytest.param(pair, id="-".join(pair)) for pair in itertools.product(ADAPTERS, MODELS)]
HEAD = {"tiny_encoder": {"classifier.weight", "classifier.bias"}, "tiny_decoder": {"score.weight"}}
pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")
TRAIN_IN_PLACE = {"full", "bitfit"}  # no updates, the backbone's own weights train


@pytest.fixture(params=PAIRS)
def pair(request):
    return request.param


def values(parameters):
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def test_an_adapted_model_starts_as_the_backbone(pair, bare, adapted, logits):
    adapter, model = pair
    made = adapted(model, adapter)
    assert torch.equal(logits(made.backbone), logits(bare(model).backbone))
    for update in made.adapters.adapters.values():
        assert not update.delta().any()


def test_only_what_is_declared_trains(pair, adapted, logits, move):
    adapter, model = pair
    made = adapted(model, adapter)
    adapter_side, head = made.adapters.adapter_parameters(), made.adapters.head_parameters()
    declared = [*adapter_side.values(), *head.values()]
    assert {id(p) for p in declared} == {id(p) for p in made.net.parameters() if p.requires_grad}
    assert len({id(p) for p in declared}) == len(declared)
    assert set(head) == HEAD[model]
    assert bool(made.adapters.adapters) == (adapter not in TRAIN_IN_PLACE | {"head", "peft"})
    assert bool(adapter_side) == (adapter != "head")

    move(adapter_side)  # at the start some gradients are zero
    batch = made.backbone.processor(["good", "terrible news"], padding=True, return_tensors="pt")
    out = made.net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.nn.functional.cross_entropy(out, torch.tensor([1, 0])).backward()
    reached = {id(p) for p in made.net.parameters() if p.grad is not None}
    assert reached <= {id(p) for p in declared}
    for name, parameter in made.adapters.adapter_parameters().items():
        if adapter not in TRAIN_IN_PLACE:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_merged_logits_equal_unmerged_ones(pair, adapted, logits, move):
    adapter, model = pair
    made = adapted(model, adapter)
    move(
        dict(made.net.named_parameters()), 0.2
    )  # as they start, the layers hardly change the logits
    start, weights = logits(made.backbone), values(dict(made.net.named_parameters()))
    move(made.adapters.adapter_parameters(), 0.3)
    unmerged = logits(made.backbone)
    with made.adapters.merged():
        merged = logits(made.backbone)
    assert torch.equal(logits(made.backbone), unmerged)
    torch.testing.assert_close(merged, unmerged, atol=2e-5, rtol=1e-5)
    assert (
        adapter == "head" or (unmerged - start).abs().max() > 0.02
    )  # there was something to merge
    if adapter not in TRAIN_IN_PLACE:
        trained = {id(p) for p in made.adapters.adapter_parameters().values()}
        after = dict(made.net.named_parameters())
        assert all(
            torch.equal(after[name], weights[name])
            for name in after
            if id(after[name]) not in trained
        )


# a run

FINISHED = {}


@pytest.fixture
def run(pair, tiny_execution, tmp_path_factory):
    """A finished run of the pair, trained once for all tests."""
    if pair not in FINISHED:
        adapter, model = pair
        folder = tmp_path_factory.mktemp("-".join(pair))
        # the default rates are MiniLM's: on a random head this small they could overshoot in a
        # dozen steps
        overrides = [
            f"model={model}",
            f"adapter={adapter}",
            "trainer.max_epochs=3",
            "optimizer.head_lr=5e-3",
        ]
        parts, record = tiny_execution(*overrides, folder=folder)
        parts.module.model.eval()
        FINISHED[pair] = SimpleNamespace(folder=folder, parts=parts, record=record)
    return FINISHED[pair]


def mean_loss(parts, backbone):
    """Mean loss on the training words, without dropout."""
    total = 0.0
    with torch.no_grad():
        for batch in parts.task.train_loader():
            out = backbone.model(**batch["inputs"])
            total += float(parts.task.loss(out, batch)) * len(batch["labels"])
    return total / parts.task.num_train_examples


def test_a_run_lowers_the_loss_and_keeps_the_rest(pair, run, adapted):
    adapter, model = pair
    fresh = adapted(model, adapter)
    before, after = (
        mean_loss(run.parts, fresh.backbone),
        mean_loss(run.parts, run.parts.backbone),
    )
    assert after < before
    trained = run.parts.adapters.adapter_parameters() | run.parts.adapters.head_parameters()
    start = fresh.adapters.adapter_parameters() | fresh.adapters.head_parameters()
    assert set(trained) == set(start)
    assert any(not torch.equal(trained[name], start[name]) for name in trained)
    moved = {id(parameter) for parameter in trained.values()}
    frozen = {n: p for n, p in run.parts.adapters.model.named_parameters() if id(p) not in moved}
    original = dict(fresh.net.named_parameters())
    assert all(torch.equal(parameter, original[name]) for name, parameter in frozen.items())
    buffers = dict(fresh.net.named_buffers())
    assert all(
        torch.equal(b, buffers[name]) for name, b in run.parts.adapters.model.named_buffers()
    )


def test_a_run_writes_the_full_record(pair, run):
    adapter, model = pair
    record, report = read_record(run.folder), run.parts.adapters.report()
    assert record == run.record
    chosen = record.run
    assert (chosen.adapter, chosen.model, chosen.task, chosen.trained) == (
        adapter,
        model,
        "lexicon",
        True,
    )
    assert (record.parameters.adapter, record.parameters.head) == (report.adapter, report.head)
    assert set(record.scores) == {
        f"{s}/{m}" for s in ("validation", "test") for m in ("loss", "accuracy")
    }
    assert record.monitor == "validation/accuracy"
    assert (record.training.epochs, record.training.steps) == (3, 9)
    best = record.training.history[record.training.best_epoch]
    assert record.scores["validation/accuracy"] == best["validation/accuracy"]
    assert best["validation/accuracy"] == max(
        row["validation/accuracy"] for row in record.training.history
    )

    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config == {"format": CONFIG_FORMAT, **record.config}
    assert config["choices"]["adapter"] == adapter
    assert config["adapter"]["_target_"].startswith(f"rlora.adapters.{adapter}.")
    columns = (run.folder / "metrics.csv").read_text().partition("\n")[0].split(",")
    assert {"validation/accuracy", "validation/loss", "test/accuracy"} <= set(columns)
    assert not (run.folder / "error.log").exists()


def test_the_files_hold_exactly_what_trains_or_derives_from_w(run):
    folder, adapters = run.folder / "adapter", run.parts.adapters
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter.json",
        "adapter.safetensors",
        "head.safetensors",
    ]
    held = {
        "adapter.safetensors": adapters.saved_tensors(),
        "head.safetensors": adapters.head_parameters(),
    }
    for name, parameters in held.items():
        tensors = load_file(folder / name)
        assert set(tensors) == set(parameters)
        assert all(torch.equal(tensors[key], parameters[key]) for key in tensors)
        assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    assert run.record.adapter_file_bytes == (folder / "adapter.safetensors").stat().st_size
    manifest = checkpoint.read_manifest(folder)
    assert manifest["derived"] == {n: list(t.shape) for n, t in adapters.derived_tensors().items()}
    assert manifest["backbone"]["fingerprint"] == run.record.backbone["fingerprint"]
    assert manifest["random_structure"] == run.record.backbone["random_structure"]
    assert manifest["parameters"]["adapter"] == run.record.parameters.adapter


def test_a_loaded_adapter_is_bit_identical(pair, run, adapted, logits):
    adapter, model = pair
    fresh = adapted(model, adapter)
    trained = logits(run.parts.backbone)
    assert not torch.equal(logits(fresh.backbone), trained)
    checkpoint.load(fresh.adapters, run.folder / "adapter", fingerprint=fresh.backbone.fingerprint)
    assert torch.equal(logits(fresh.backbone), trained)


def test_the_head_can_stay_out_of_a_load(pair, run, adapted):
    adapter, model = pair
    fresh = adapted(model, adapter)
    head = values(fresh.adapters.head_parameters())
    checkpoint.load(
        fresh.adapters, run.folder / "adapter", fingerprint=fresh.backbone.fingerprint, head=False
    )
    assert all(torch.equal(head[name], p) for name, p in fresh.adapters.head_parameters().items())
    trained = run.parts.adapters.adapter_parameters()
    assert all(
        torch.equal(trained[name], p) for name, p in fresh.adapters.adapter_parameters().items()
    )
