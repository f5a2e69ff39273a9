"""Runs under the PAC-Bayes regularizer; without one, training is the plain loop."""

import pytest
import torch
from safetensors.torch import load_file

from rlora.adapters import checkpoint
from rlora.records.record import read_record
from rlora.training.module import FineTuning

pytestmark = pytest.mark.filterwarnings(
    "ignore:The number of training batches",
    "ignore:The dirpath has changed",
    "ignore:Total length of `list`",
)


def overrides(adapter):
    rank = ["adapter.rank=2"] if adapter in ("lora", "rlora") else []
    return [f"adapter={adapter}", *rank, "regularizer=pac_bayes"]


def tensors(folder):
    return load_file(folder / "adapter" / checkpoint.ADAPTER_FILE) | load_file(
        folder / "adapter" / checkpoint.HEAD_FILE
    )


# one adapter of each kind: wrapped layers, backbone weights in place, a third-party model;
# tests/contracts covers all of them, without the trainer
@pytest.mark.parametrize("adapter", ["lora", "full", "peft"])
def test_a_run_moves_means_and_deviations(adapter, tiny_execution, tmp_path):
    parts, _ = tiny_execution(*overrides(adapter), folder=tmp_path)
    posterior = parts.module.regularizer.posterior
    for group, members in posterior.members.items():
        sigma = posterior.sigma(group)
        assert not torch.equal(posterior.mean(group), posterior.mean0(group))
        assert not torch.equal(sigma, posterior.sigma0(group).expand_as(sigma))
        for member in members:
            assert all(getattr(module, name) is member.parameter for module, name in member.owners)
    assert posterior.kl() > 0
    record = read_record(tmp_path)
    assert record.run.regularizer == "pac_bayes"
    assert 0 <= record.scores["test/accuracy"] <= 1
    assert "train/kl" in (tmp_path / "metrics.csv").read_text().splitlines()[0]


def test_an_objective_with_its_own_parameter_trains_under_noise_per_example(
    tiny_execution, tmp_path
):
    choices = ["regularizer.objective=lambda", "regularizer.noise=per_example"]
    parts, _ = tiny_execution(*overrides("rlora"), *choices, folder=tmp_path)
    assert read_record(tmp_path).scores
    assert parts.module.regularizer.logit.item() != 0


def test_pac_tuning_updates_sigma_in_the_first_stage_only(tiny_execution, tmp_path, monkeypatch):
    sigmas = []
    original = FineTuning.on_train_batch_start

    def on_train_batch_start(self, batch, batch_idx):
        sigmas.append(self.regularizer.posterior.sigma("head").detach().clone())
        original(self, batch, batch_idx)

    monkeypatch.setattr(FineTuning, "on_train_batch_start", on_train_batch_start)
    tiny_execution(*overrides("rlora"), "regularizer.objective=pac_tuning", folder=tmp_path)
    half = len(sigmas) // 2
    assert not torch.equal(sigmas[0], sigmas[half])
    assert all(torch.equal(sigmas[half], later) for later in sigmas[half:])


def test_a_resumed_run_equals_an_uninterrupted_one(tiny_execution, tmp_path):
    constant = ["scheduler=constant", "scheduler.warmup=0"]
    tiny_execution(
        *overrides("rlora"), *constant, "trainer.max_epochs=1", folder=tmp_path / "first"
    )
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    second, _ = tiny_execution(
        "trainer.max_epochs=2", f"ckpt_path='{last}'", folder=tmp_path / "second"
    )
    uninterrupted, _ = tiny_execution(
        *overrides("rlora"), *constant, "trainer.max_epochs=2", folder=tmp_path / "uninterrupted"
    )
    assert torch.equal(
        second.module.regularizer.posterior.rho["head"],
        uninterrupted.module.regularizer.posterior.rho["head"],
    )
    actual, expected = tensors(tmp_path / "second"), tensors(tmp_path / "uninterrupted")
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_without_a_regularizer_training_is_the_plain_loop(tiny_run, tmp_path, monkeypatch):
    tiny_run(folder=tmp_path / "none")

    def training_step(self, batch, batch_idx):
        loss = self.task.loss(self(batch), batch)
        self.log(
            "train/loss",
            loss.detach(),
            on_step=True,
            on_epoch=True,
            batch_size=len(batch["labels"]),
        )
        return loss

    monkeypatch.setattr(FineTuning, "training_step", training_step)
    tiny_run(folder=tmp_path / "plain")
    actual, expected = tensors(tmp_path / "none"), tensors(tmp_path / "plain")
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_noise_per_example_is_refused_for_an_adapter_without_support(tiny_run, tmp_path):
    with pytest.raises(ValueError, match=r"for LoRALayer: .* set regularizer\.noise=per_step"):
        tiny_run(*overrides("lora"), "regularizer.noise=per_example", folder=tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_a_task_without_a_bounded_loss_needs_another_objective(tiny_run, tmp_path, monkeypatch):
    from rlora.tasks.lexicon import Lexicon

    monkeypatch.setattr(Lexicon, "has_bounded_loss", False)
    with pytest.raises(
        ValueError, match=r"as classification has; set regularizer\.objective=elbo or pac_tuning"
    ):
        tiny_run(*overrides("rlora"), folder=tmp_path)
    tiny_run(*overrides("rlora"), "regularizer.objective=elbo", folder=tmp_path)
