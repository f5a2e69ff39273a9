"""Adapted models of each family with moved adapters, and their logits."""

from types import SimpleNamespace

import pytest
import torch

from rlora.adapters import inject
from rlora.adapters.dora import DoRA
from rlora.adapters.fourierft import FourierFT
from rlora.adapters.lora import LoRA
from rlora.adapters.lora_xs import LoRAXS
from rlora.adapters.nola import NOLA
from rlora.adapters.randlora import RandLoRA
from rlora.adapters.rlora import RLoRA
from rlora.adapters.vera import VeRA
from rlora.models.random_init import random_model

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
FAMILIES = {
    "bert": {"model_type": "bert", "max_position_embeddings": 64, **SMALL},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": {
        "model_type": "llama",
        "max_position_embeddings": 64,
        "num_key_value_heads": 1,
        **SMALL,
    },
}
HEADS = {
    "bert": ["classifier.weight", "classifier.bias"],
    "gpt2": ["score.weight"],
    "llama": ["score.weight"],
}
METHODS = {
    "lora": LoRA(rank=3, alpha=5),
    "rslora": LoRA(rank=4, alpha=5, rank_stabilized=True),
    "rlora": RLoRA(rank=4),
    "fastfood": RLoRA(rank=4, transform="fastfood"),
    "core": RLoRA(rank=4, core=True),
    "nola": NOLA(rank=2, num_bases=5),
    "hadamard": NOLA(rank=2, num_bases=5, basis="hadamard"),
    "vera": VeRA(rank=6, alpha=6),
    "randlora": RandLoRA(rank=8, alpha=160),
    "dora": DoRA(rank=3, alpha=5),
    "lora_xs": LoRAXS(rank=4, alpha=5),
    "fourierft": FourierFT(num_frequencies=20),
}
TOKENS = torch.arange(20).reshape(2, 10) + 5


@pytest.fixture(scope="session")
def fresh():
    """Function (family, kind): a model without adapters, the same each time."""

    def make(family, kind="classification"):
        return random_model(FAMILIES[family], kind=kind, num_labels=3, seed=0).model.eval()

    return make


@pytest.fixture(scope="session")
def trained(fresh):
    """Function (family, method, targets, kind): a model with moved adapters, and its logits."""

    def make(family, method, targets=("q", "v"), kind="classification"):
        import dataclasses

        net = fresh(family, kind)
        chosen = dataclasses.replace(METHODS[method], targets=targets)
        adapters = inject(net, chosen, head=HEADS[family] if kind == "classification" else [])
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in (
                *adapters.adapter_parameters().values(),
                *adapters.head_parameters().values(),
            ):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            logits = net(TOKENS).logits
        return SimpleNamespace(net=net, adapters=adapters, logits=logits)

    return make
