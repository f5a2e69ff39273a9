"""Layers that run again in backward see what the first pass saw."""

import adapter_zoo as zoo
import pytest
import torch

from rlora.adapters import inject
from rlora.adapters.rlora import RLoRA
from rlora.regularizers.base import Step
from rlora.regularizers.pac_bayes import PACBayes


@pytest.mark.parametrize("rank", [2, 32])
def test_layers_that_run_again_in_backward_see_the_noise_again(rank):
    """Recomputed activations, the backbone's or RLoRA's own, must be those of the perturbed parameters."""
    grads = []
    for checkpointing in (False, True):
        model = zoo.build("bert").train()
        inject(model, RLoRA(rank=rank, targets=("q", "v")), head=zoo.HEADS["bert"])
        if checkpointing:
            model.gradient_checkpointing_enable()
        own = PACBayes(sigma_adapter=0.5, sigma_head=0.5)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        own.prepare(model, {"adapter": trained}, 5)
        with own.perturbed(Step(seed=1)):
            zoo.logits(model).square().sum().backward()
        grads.append([p.grad for p in trained.values()] + [own.posterior.rho["adapter"].grad])
    torch.testing.assert_close(grads[0], grads[1])
