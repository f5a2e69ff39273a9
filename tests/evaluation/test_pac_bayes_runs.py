"""Runs under the PAC-Bayes regularizer: with every adapter, resumed, refused; and none means none."""

import pytest
import torch
from safetensors.torch import load_file

from rlora.adapters import checkpoint
from rlora.records.record import read_record
from rlora.training.module import FineTuning

ADAPTERS = ["lora", "rlora", "nola", "randlora", "vera", "full", "bitfit", "head", "peft"]
pytestmark = pytest.mark.filterwarnings(
    "ignore:The number of training batches",
    "ignore:The dirpath has changed",
    "ignore:Total length of `list`",
)


def words(adapter):
    ranked = adapter in ADAPTERS[:5]
    return [f"adapter={adapter}", *(["adapter.rank=2"] if ranked else []), "regularizer=pac_bayes"]


def tensors(folder):
    return load_file(folder / "adapter" / checkpoint.ADAPTER_FILE) | load_file(
        folder / "adapter" / checkpoint.HEAD_FILE
    )


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_trains_under_it(adapter, tiny_experiment, tmp_path):
    experiment = tiny_experiment(*words(adapter), folder=tmp_path)
    experiment.run()
    posterior = experiment.module.regularizer.posterior
    for group, members in posterior.members.items():
        assert not torch.equal(posterior.mean(group), posterior.mean0(group))
        assert not torch.equal(
            posterior.sigma(group), posterior.sigma0(group).expand_as(posterior.sigma(group))
        )
        for member in members:
            assert all(getattr(module, name) is member.parameter for module, name in member.owners)
    assert posterior.kl() > 0
    record = read_record(tmp_path)
    assert record.run.regularizer == "pac_bayes"
    assert 0 <= record.scores["test/accuracy"] <= 1
    assert "train/kl" in (tmp_path / "metrics.csv").read_text().splitlines()[0]


@pytest.mark.parametrize("objective", ["mcallester", "lambda", "kl", "elbo", "pac_tuning"])
@pytest.mark.parametrize("noise", ["per_example", "none"])
def test_every_objective_with_every_noise(objective, noise, tiny_run, tmp_path):
    tiny_run(
        *words("rlora"),
        f"regularizer.objective={objective}",
        f"regularizer.noise={noise}",
        folder=tmp_path,
    )
    assert read_record(tmp_path).scores


def test_pac_tuning_moves_its_deviations_in_the_first_stage_alone(
    tiny_experiment, tmp_path, monkeypatch
):
    seen = []
    end = FineTuning.on_train_batch_start

    def on_train_batch_start(self, batch, batch_idx):
        seen.append(self.regularizer.posterior.sigma("head").detach().clone())
        end(self, batch, batch_idx)

    monkeypatch.setattr(FineTuning, "on_train_batch_start", on_train_batch_start)
    tiny_experiment(*words("rlora"), "regularizer.objective=pac_tuning", folder=tmp_path).run()
    half = len(seen) // 2
    assert not torch.equal(seen[0], seen[half])
    assert all(torch.equal(seen[half], later) for later in seen[half:])


def test_resuming_equals_not_having_stopped(tiny_experiment, tmp_path):
    whole = tiny_experiment(*words("rlora"), "trainer.max_epochs=2", folder=tmp_path / "whole")
    whole.run()
    constant = ["scheduler=constant", "scheduler.warmup=0"]
    first = tiny_experiment(
        *words("rlora"), *constant, "trainer.max_epochs=1", folder=tmp_path / "first"
    )
    first.run()
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    second = tiny_experiment(
        "trainer.max_epochs=2", f"ckpt_path='{last}'", folder=tmp_path / "second"
    )
    second.run()
    straight = tiny_experiment(
        *words("rlora"), *constant, "trainer.max_epochs=2", folder=tmp_path / "straight"
    )
    straight.run()
    assert torch.equal(
        second.module.regularizer.posterior.rho["head"],
        straight.module.regularizer.posterior.rho["head"],
    )
    found, expected = tensors(tmp_path / "second"), tensors(tmp_path / "straight")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_none_is_the_loop_without_it(tiny_run, tmp_path, monkeypatch):
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
    found, expected = tensors(tmp_path / "none"), tensors(tmp_path / "plain")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_adapter_that_shares_its_noise_is_refused_for_noise_of_each_example(tiny_run, tmp_path):
    with pytest.raises(ValueError, match=r"for LoRALayer: .* set regularizer\.noise=per_step"):
        tiny_run(*words("lora"), "regularizer.noise=per_example", folder=tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_a_task_without_a_bounded_loss_is_told_which_objectives_it_may_have(
    tiny_run, tmp_path, monkeypatch
):
    from rlora.tasks.lexicon import Lexicon

    monkeypatch.setattr(Lexicon, "has_bounded_loss", False)
    with pytest.raises(
        ValueError, match=r"only classification has; use regularizer\.objective=elbo or pac_tuning"
    ):
        tiny_run(*words("rlora"), folder=tmp_path)
    tiny_run(*words("rlora"), "regularizer.objective=elbo", folder=tmp_path)
