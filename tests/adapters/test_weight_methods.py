"""Methods that read W: Site.weight, derived tensors and their files, DoRA, LoRA-XS."""

import json
import pickle

import adapter_zoo as zoo
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rlora.adapters import checkpoint, inject
from rlora.adapters.declared import DeclaredTensors, Site
from rlora.adapters.dora import DoRA
from rlora.adapters.lora import LoRA
from rlora.ops.philox import RandomSource
from rlora.records.record import read_record


def sites_of(model):
    return {
        name: update.site
        for name, update in inject(model, LoRA(targets=zoo.TARGETS["gpt2"])).adapters.items()
    }


def test_a_site_gives_the_original_weight_of_its_rows():
    model = zoo.build("gpt2")
    c_attn, c_fc = model.transformer.h[0].attn.c_attn.weight, model.transformer.h[0].mlp.c_fc.weight
    sites = sites_of(model)
    assert torch.equal(sites["h.0.attn.c_attn[v]"].weight(), c_attn.T[64:96])  # Conv1D: (in, out)
    assert torch.equal(sites["h.0.mlp.c_fc"].weight(), c_fc.T)
    assert not sites["h.0.mlp.c_fc"].weight().requires_grad


def test_a_site_gives_float32_or_better_and_copies_only_to_convert():
    for dtype, expected in [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        model = zoo.build("bert").to(dtype)
        layer = model.bert.encoder.layer[0].attention.self.query
        site = (
            inject(model, LoRA(targets=["q"])).adapters["encoder.layer.0.attention.self.query"].site
        )
        assert site.weight().dtype == expected
        same = site.weight().data_ptr() == layer.weight.data_ptr()
        assert same == (dtype == expected)


def test_a_site_gives_the_original_weight_of_a_merged_layer(adapt):
    adapters = adapt("gpt2", "lora").adapters
    before = [update.site.weight().clone() for update in adapters.adapters.values()]
    with adapters.merged():
        merged = [update.site.weight() for update in adapters.adapters.values()]
    assert all(torch.equal(one, two) for one, two in zip(before, merged, strict=True))


def test_sites_are_compared_by_name_and_shape():
    with_weight = Site("a", 2, 3, lambda: torch.zeros(2, 3))
    assert with_weight == Site("a", 2, 3)
    assert hash(with_weight) == hash(Site("a", 2, 3))
    assert "read_weight" not in repr(with_weight)
    assert Site("a", 2, 3).weight() is None


def test_a_copy_reads_its_own_weight(adapt):
    adapted = adapt("bert", "dora")
    other = pickle.loads(pickle.dumps(adapted.adapters))
    name, update = next(iter(other.adapters.items()))
    with torch.no_grad():
        other.layers[f"bert.{name}"].weight.mul_(2)
    assert torch.equal(update.site.weight(), 2 * adapted.adapters.adapters[name].site.weight())


def test_a_quantized_weight_is_dequantized():
    pytest.importorskip("torchao")
    from rlora.models.quantization import dequantize, quantize

    for how in ("int8", "nf4"):
        model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Sequential(nn.Linear(64, 96))])})
        quantize(model, how)
        site = next(iter(inject(model, LoRA(rank=2, targets="all-linear")).adapters.values())).site
        actual = site.weight()
        dequantize(model)
        layer = next(module for module in model.modules() if type(module) is nn.Linear)
        assert type(actual) is torch.Tensor
        assert torch.equal(actual, layer.weight)


# DoRA


def test_no_gradient_flows_through_the_norm_of_dora():
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    layer = DoRA(rank=3).build([Site("x", 6, 5, lambda: w)], RandomSource(0))[0].double()
    zoo.perturb(layer, 0.5, seed=2)
    g = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    actual = torch.autograd.grad(layer.delta(), (layer.m, layer.B, layer.A), g)
    v = w + layer.scale * layer.B @ layer.A
    norm = v.detach().norm(dim=1)
    expected = torch.autograd.grad((layer.m / norm)[:, None] * v, (layer.m, layer.B, layer.A), g)
    torch.testing.assert_close(actual, expected)


def test_the_magnitudes_of_dora_are_the_norms_of_the_rows(adapt):
    adapters = adapt("gpt2", "dora", moved=False).adapters
    for update in adapters.adapters.values():
        torch.testing.assert_close(update.m.detach(), update.site.weight().norm(dim=1))


def test_dora_leaves_a_row_of_zeros_alone():
    w = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    layer = DoRA(rank=1).build([Site("x", 2, 2, lambda: w)], RandomSource(0))[0]
    assert not layer.delta().any()
    layer.delta().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


# LoRA-XS


def test_the_factors_of_lora_xs_are_the_best_of_their_rank(adapt):
    for update in adapt("bert", "lora-xs").adapters.adapters.values():
        w = update.site.weight().double()
        u, s, v = torch.linalg.svd(w, full_matrices=False)
        best = u[:, :6] * s[:6] @ v[:6]
        torch.testing.assert_close((update.B @ update.A).double(), best, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(update.A @ update.A.T, torch.eye(6))
        torch.testing.assert_close(update.B.norm(dim=0), s[:6].float())


# files of derived tensors


@pytest.fixture
def other_svd(monkeypatch):
    """Function: from now on an SVD has other signs, as it may on another machine."""
    svd = torch.linalg.svd

    def start():
        def flipped(matrix, full_matrices):
            u, s, v = svd(matrix, full_matrices=full_matrices)
            return -u, s, -v

        monkeypatch.setattr(torch.linalg, "svd", flipped)

    return start


def test_a_file_restores_what_another_machine_derives_otherwise(adapt, tmp_path, other_svd):
    source = adapt("bert", "lora-xs")
    checkpoint.save(source.adapters, tmp_path / "adapter")
    held = load_file(tmp_path / "adapter" / checkpoint.ADAPTER_FILE)
    site = "encoder.layer.0.attention.self.query"
    assert {f"{site}.A", f"{site}.B", f"{site}.R"} <= set(held)
    assert source.adapters.report().adapter == 8 * 36  # derived tensors do not count as trained

    expected = zoo.logits(source.model)
    other_svd()
    fresh = adapt("bert", "lora-xs", moved=False)
    assert not torch.equal(fresh.adapters.adapters[site].B, source.adapters.adapters[site].B)
    assert fresh.adapters.digest == source.adapters.digest
    checkpoint.load(fresh.adapters, tmp_path / "adapter")
    assert torch.equal(zoo.logits(fresh.model), expected)


def test_only_numbers_can_be_derived():
    with pytest.raises(TypeError, match=r"torch\.int64"):
        DeclaredTensors().derive("rows", torch.zeros(2, dtype=torch.int64))


def test_a_rank_may_differ_in_a_method_that_derives(adapt, tmp_path):
    checkpoint.save(adapt("bert", "lora-xs").adapters, tmp_path / "adapter")
    with pytest.raises(ValueError, match="rank: saved 6, now 5"):
        checkpoint.load(adapt("bert", "lora-xs", rank=5).adapters, tmp_path / "adapter")


def test_an_adapter_of_version_0_1_is_refused_in_one_sentence(adapt, tmp_path):
    adapters = adapt("bert", "lora").adapters
    checkpoint.save(adapters, tmp_path / "adapter")
    file = tmp_path / "adapter" / checkpoint.MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 1}))
    with pytest.raises(ValueError, match=r"saved by rlora 0\.1.*train the adapter again") as caught:
        checkpoint.load(adapters, tmp_path / "adapter")
    assert len(str(caught.value).splitlines()) == 1


def test_a_training_checkpoint_holds_what_derives_from_w(
    tiny_execution, tiny_run, tmp_path, other_svd
):
    """Evaluation of a .ckpt on a machine with another SVD gives the same scores."""
    options = ("adapter=lora_xs", "adapter.rank=4", "optimizer.lr=0.05")
    parts, record = tiny_execution(*options, folder=tmp_path / "first")
    best = tmp_path / "first" / "checkpoints" / "best.ckpt"
    state = torch.load(best, weights_only=True)["state_dict"]
    assert sum(name.endswith((".A", ".B")) for name in state) == 2 * len(parts.adapters.adapters)
    other_svd()
    tiny_run(*options, "train=false", f"ckpt_path={best}", folder=tmp_path / "second")
    score = read_record(tmp_path / "second").scores["test/loss"]
    assert score == pytest.approx(record.scores["test/loss"], abs=1e-6)


def test_a_resumed_training_equals_an_uninterrupted_one(tiny_run, tmp_path, other_svd):
    options = (
        "adapter=lora_xs",
        "adapter.rank=4",
        "optimizer.lr=0.05",
        "scheduler=constant",
        "scheduler.warmup=0",
    )
    tiny_run(*options, "trainer.max_epochs=4", folder=tmp_path / "whole")
    tiny_run(*options, "trainer.max_epochs=2", folder=tmp_path / "part")
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    other_svd()
    tiny_run(f"ckpt_path={last}", "trainer.max_epochs=4", folder=tmp_path / "resumed")
    expected, resumed = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("whole", "resumed")
    )
    assert list(expected) == list(resumed)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in expected.items())
