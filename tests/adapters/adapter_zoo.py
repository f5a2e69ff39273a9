"""Every method with every option, and three tiny models to inject it into."""

import copy
from functools import cache

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from rlora.adapters.bitfit import BitFit
from rlora.adapters.dora import DoRA
from rlora.adapters.fourierft import FourierFT
from rlora.adapters.full import Full
from rlora.adapters.head import Head
from rlora.adapters.lora import LoRA
from rlora.adapters.lora_xs import LoRAXS
from rlora.adapters.nola import NOLA
from rlora.adapters.randlora import BASES as LAWS
from rlora.adapters.randlora import SCALINGS, RandLoRA
from rlora.adapters.rlora import RLoRA
from rlora.adapters.vera import VeRA

# rank 6 divides neither 16 nor 32, so that RandLoRA's last product is cut, and is no power of two
RANKED = {"rank": 6, "alpha": 9.0}
METHODS = {
    "lora": (LoRA, RANKED),
    "lora-rs": (LoRA, RANKED | {"rank_stabilized": True}),
    "rlora-srht": (RLoRA, RANKED),
    "rlora-srht-core": (RLoRA, RANKED | {"core": True}),
    "rlora-fastfood": (RLoRA, RANKED | {"transform": "fastfood"}),
    "rlora-fastfood-core": (RLoRA, RANKED | {"transform": "fastfood", "core": True}),
    "nola-dense": (NOLA, RANKED | {"num_bases": 10}),
    "nola-hadamard": (NOLA, RANKED | {"num_bases": 10, "basis": "hadamard"}),
    "vera": (VeRA, RANKED),
    "vera-wide": (VeRA, RANKED | {"rank": 40, "d_start": 0.3}),
    "dora": (DoRA, RANKED),
    "lora-xs": (LoRAXS, RANKED),
    "fourierft": (FourierFT, {"alpha": 90.0, "num_frequencies": 12}),
} | {
    f"randlora-{law}-{number}": (RandLoRA, RANKED | {"basis": law, "scaling": scaling})
    for law in LAWS
    for number, scaling in enumerate(SCALINGS)
}
# one of each implementation, for the slower tests
KINDS = [
    "lora",
    "rlora-srht-core",
    "rlora-fastfood",
    "nola-dense",
    "nola-hadamard",
    "vera",
    "randlora-uniform-0",
    "dora",
    "lora-xs",
    "fourierft",
]
UNSEEDED = ["lora", "lora-rs", "dora", "lora-xs"]  # nothing is regenerated from the seed
SEEDED = [kind for kind in KINDS if kind not in UNSEEDED]
FROZEN_NORM = ["dora"]  # autograd takes |V| as a constant, finite differences do not
FULL_RANK = ["dora", "fourierft", *(name for name in METHODS if name.startswith("randlora"))]
BASELINES = {"full": Full, "head": Head, "bitfit": BitFit}

HEADS = {
    "bert": ["classifier.weight", "classifier.bias"],
    "gpt2": ["score.weight"],
    "llama": ["score.weight"],
}
# square, wide and tall layers of each model; GPT-2's q and v are row blocks of one fused layer
TARGETS = {
    "bert": ["q", "v", "fc1", "fc2"],
    "gpt2": ["q", "v", "fc1", "fc2"],
    "llama": ["q", "v", "up", "down"],
}


def make(name, **changes):
    """The method of a row of the table."""
    method, options = METHODS[name]
    return method(**(options | changes))


@cache
def _original(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _BUILDERS[name]()
        for (
            parameter
        ) in model.parameters():  # biases and norms away from 0 and 1, logits of order 1
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def build(name):
    """A tiny random model, the same at every call: hidden 32, inner 48, no dropout."""
    return copy.deepcopy(_original(name))


def _bert():
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=3,
        )
    )


def _gpt2():
    return GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=50,
            n_positions=16,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_inner=48,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            num_labels=3,
        )
    )


def _llama():
    return LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=16,
            pad_token_id=0,
            num_labels=3,
        )
    )


_BUILDERS = {"bert": _bert, "gpt2": _gpt2, "llama": _llama}


def token_ids(rows=4, seed=0):
    return torch.randint(3, 50, (rows, 7), generator=torch.Generator().manual_seed(seed))


def logits(model, ids=None, **kwargs):
    return model(input_ids=token_ids() if ids is None else ids, **kwargs).logits


@torch.no_grad()
def perturb(parameters, scale=0.1, seed=1):
    """Add normal noise to parameters in place; accepts modules, dicts and iterables.

    The noise has its own generator, so that every call is the same.
    """
    if isinstance(parameters, nn.Module):
        parameters = parameters.parameters()
    elif isinstance(parameters, dict):
        parameters = parameters.values()
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(scale * noise.to(parameter.dtype))


def gradients(loss, parameters):
    """Gradients of a loss by name, all of them required."""
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
