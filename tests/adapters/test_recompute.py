"""Layers that are recomputed in backward use the values of the first pass."""

import adapter_zoo as zoo
import pytest
import torch

from rlora.adapters import inject
from rlora.adapters.rlora import RLoRA
from rlora.regularizers.base import Step
from rlora.regularizers.pac_bayes import PACBayes


@pytest.mark.parametrize("rank", [2, 32])
def test_recomputed_layers_use_the_same_noise(rank):
    """Recomputation, of the backbone or inside RLoRA, must use the perturbed parameters."""
    grads = []
    for checkpointing in (False, True):
        model = zoo.build("bert").train()
        inject(model, RLoRA(rank=rank, targets=("q", "v")), head=zoo.HEADS["bert"])
        if checkpointing:
            model.gradient_checkpointing_enable()
        regularizer = PACBayes(sigma_adapter=0.5, sigma_head=0.5)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        regularizer.prepare(model, {"adapter": trained}, 5)
        with regularizer.perturbed(Step(seed=1)):
            zoo.logits(model).square().sum().backward()
        grads.append(
            [p.grad for p in trained.values()] + [regularizer.posterior.rho["adapter"].grad]
        )
    torch.testing.assert_close(grads[0], grads[1])
