"""Published parameter counts on the true shapes, built on the meta device."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    RobertaConfig,
)

from rlora.adapters import inject
from rlora.adapters.dora import DoRA
from rlora.adapters.fourierft import FourierFT
from rlora.adapters.full import Full
from rlora.adapters.lora import LoRA
from rlora.adapters.lora_xs import LoRAXS
from rlora.adapters.nola import NOLA
from rlora.adapters.randlora import RandLoRA
from rlora.adapters.rlora import RLoRA
from rlora.adapters.vera import VeRA


def roberta(layers, hidden, inner, heads):
    return RobertaConfig(
        vocab_size=50265,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=514,
        type_vocab_size=1,
    )


def gpt2(layers, hidden, heads):
    return GPT2Config(
        vocab_size=50257, n_positions=1024, n_embd=hidden, n_layer=layers, n_head=heads
    )


def llama(inner, vocabulary, kv_heads):
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=4096,
        intermediate_size=inner,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=kv_heads,
    )


CONFIGS = {
    "roberta-base": roberta(12, 768, 3072, 12),
    "roberta-large": roberta(24, 1024, 4096, 16),
    "gpt2-medium": gpt2(24, 1024, 16),
    "gpt2-large": gpt2(36, 1280, 20),
    "llama-2-7b": llama(11008, 32000, 32),
    "llama-3-8b": llama(14336, 128256, 8),
}
HEADS = [
    "classifier.dense.weight",
    "classifier.dense.bias",
    "classifier.out_proj.weight",
    "classifier.out_proj.bias",
]
FIVE = ["q", "k", "v", "up", "down"]
SIX = ["q", "k", "v", "o", "fc1", "fc2"]
# LLaMA-3-8B, r = 30: n = ceil(4096/30) = 137 for q, up and down, 137 (30 + 4096) = 565,262 each; k
# and v have 1,024 rows: n = 35, 35 (30 + 1024) = 36,890 each; in 32 blocks 56,626,112, the 56.63 M
# of the paper's q, k, v, up, down
COUNTS = [
    ("roberta-base", LoRA(rank=8, targets=["q", "v"]), 24, 294_912),
    ("gpt2-medium", LoRA(rank=4, targets=["q", "v"]), 48, 393_216),
    ("gpt2-large", LoRA(rank=4, targets=["q", "v"]), 72, 737_280),
    ("roberta-base", RLoRA(targets=["q", "v"]), 24, 36_864),
    ("roberta-base", RLoRA(rank=64, targets=["q", "v"]), 24, 36_864),
    ("roberta-base", RLoRA(core=True, rank=8, targets=["q", "v"]), 24, 37_056),
    ("roberta-base", RLoRA(transform="fastfood", targets=["q", "v"]), 24, 49_152),
    ("gpt2-large", NOLA(num_bases=256, targets=["q", "v"]), 72, 36_864),
    ("gpt2-large", NOLA(num_bases=256, basis="hadamard", targets=["q", "v"]), 72, 36_864),
    ("llama-2-7b", NOLA(num_bases=128, targets="all-linear"), 224, 57_344),
    ("roberta-base", RandLoRA(rank=64, targets=SIX), 72, 718_848),
    ("roberta-large", RandLoRA(rank=100, targets=SIX), 144, 1_780_416),
    # LLaMA 7B has the shapes of LLaMA-2 7B; LoRA's 56.1 M are the 0.83 % of Liu et al. (DoRA),
    # table 1
    ("llama-2-7b", LoRA(rank=32, targets=FIVE), 160, 32 * (3 * 32 * 8192 + 2 * 32 * 15_104)),
    ("llama-2-7b", RLoRA(targets=FIVE), 160, 32 * (3 * 8192 + 2 * 15_104)),
    ("llama-2-7b", NOLA(num_bases=512, targets=FIVE), 160, 160 * 2 * 512),
    ("llama-2-7b", RandLoRA(rank=30, targets=FIVE), 160, 160 * 565_262),
    ("llama-2-7b", VeRA(rank=256, targets=FIVE), 160, 32 * (4 * 4096 + 11_008 + 5 * 256)),
    ("llama-2-7b", Full(), 0, 6_738_415_616),
    ("llama-3-8b", RandLoRA(rank=30, targets=FIVE), 160, 56_626_112),
    ("gpt2-medium", VeRA(rank=1024, targets=["q", "v"]), 48, 98_304),
    # 0.84 % of LLaMA 7B: Liu et al. (DoRA), table 1; LoRA's number and one magnitude per output
    # feature
    ("llama-2-7b", DoRA(rank=32, targets=FIVE), 160, 56_098_816 + 32 * (4 * 4096 + 11_008)),
    # Banaei et al. (LoRA-XS), table 1: 24.6 K and 60 K
    ("roberta-large", LoRAXS(rank=16, targets=["q", "v", "o", "fc2"]), 96, 24_576),
    ("roberta-large", LoRAXS(rank=25, targets=["q", "v", "o", "fc2"]), 96, 60_000),
    # Gao et al. (FourierFT), tables 2, 3 and 4
    ("roberta-base", FourierFT(num_frequencies=1000, targets=["q", "v"]), 24, 24_000),
    ("roberta-large", FourierFT(num_frequencies=1000, targets=["q", "v"]), 48, 48_000),
    ("llama-2-7b", FourierFT(num_frequencies=1000, targets=["q", "v"]), 64, 64_000),
]
# parameters of the backbone without the head: RoBERTa as published less its pooler, which a
# classifier does not use
BACKBONES = {
    "roberta-base": 124_055_040,
    "roberta-large": 354_310_144,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
}


@pytest.mark.parametrize(
    ("backbone", "method", "matrices", "expected"),
    COUNTS,
    ids=[f"{name}-{type(method).__name__}-{count}" for name, method, _, count in COUNTS],
)
def test_count(backbone, method, matrices, expected):
    config = CONFIGS[backbone]
    auto_class = (
        AutoModelForSequenceClassification
        if backbone.startswith("roberta")
        else AutoModelForCausalLM
    )
    with torch.device("meta"):
        model = auto_class.from_config(config)
    adapters = inject(model, method, head=HEADS if backbone.startswith("roberta") else [])
    report = adapters.report()
    assert len(adapters.adapters) == matrices
    assert report.adapter == expected
    assert report.backbone == BACKBONES[backbone]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected + report.head
    # nothing was allocated: every tensor of the adapters, their bases included, is a shape only
    tensors = [*model.parameters(), *(b for a in adapters.adapters.values() for b in a.buffers())]
    assert all(tensor.is_meta for tensor in tensors)
