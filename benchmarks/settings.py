"""The settings of every part: `Settings` for published numbers, `quick` to check the code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Ranks:
    """Rank r of each adapter, and k, the number of NOLA's bases."""

    lora: int = 8
    rlora: int = 8
    nola: int = 8
    num_bases: int = 512
    vera: int = 256
    randlora: int = 32


QUICK_RANKS = Ranks(lora=2, rlora=2, nola=2, num_bases=4, vera=8, randlora=8)
TARGETS: dict[str, str | tuple[str, ...]] = {"q, v": ("q", "v"), "all linears": "all-linear"}


@dataclass(frozen=True)
class Encoder:
    """A RoBERTa with random weights, by default of RoBERTa base's width."""

    layers: int
    hidden: int = 768
    heads: int = 12
    intermediate: int = 3072
    vocabulary: int = 2000
    positions: int = 514

    def config(self) -> dict[str, Any]:
        """Return the fields of its transformers config."""
        return {
            "model_type": "roberta",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.positions,
            "type_vocab_size": 1,
            "num_labels": 2,
        }


@dataclass(frozen=True)
class StepSettings:
    """Training steps of `batch` x `length` tokens in float32."""

    encoder: Encoder = Encoder(layers=4)
    batch: int = 16
    length: int = 128
    ranks: Ranks = Ranks()
    rounds: int = 7
    targets: Mapping[str, str | tuple[str, ...]] = field(default_factory=lambda: TARGETS)


@dataclass(frozen=True)
class FileSettings:
    """Adapters of RoBERTa base on q and v. The vocabulary is small: no adapter changes it."""

    encoder: Encoder = Encoder(layers=12)
    ranks: Ranks = Ranks()
    rounds: int = 7


@dataclass(frozen=True)
class GrowthSettings:
    """One adapted layer of `width` x `width` and `tokens` tokens; one size varies at a time."""

    width: int = 768
    tokens: int = 1024
    ranks: Ranks = Ranks()
    vary_tokens: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096, 8192)
    vary_rank: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768)
    vary_num_bases: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    vary_width: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    rounds: int = 3
    at_least: float = 0.02


@dataclass(frozen=True)
class HadamardSettings:
    """Transforms of rows of n numbers, with rows * n = 2^`log2_numbers`."""

    orders: tuple[int, ...] = tuple(2**i for i in range(6, 15))
    log2_numbers: int = 21
    largest_dense: int = 4096
    rounds: int = 9
    at_least: float = 0.02


@dataclass(frozen=True)
class InjectSettings:
    """Injecting each adapter into RoBERTa base on q and v, with its frozen matrices regenerated."""

    encoder: Encoder = Encoder(layers=12)
    ranks: Ranks = Ranks()
    rounds: int = 3


@dataclass(frozen=True)
class ReportSettings:
    """A report of `runs` synthetic runs."""

    runs: int = 5000
    rounds: int = 3


@dataclass(frozen=True)
class LargeModel:
    """The shape of a published model, with random weights.

    Args:
        name: Name in the results.
        kind: "classification" or "language".
        config: Fields of its transformers config.
        targets: Name suffixes or roles of the adapted layers.
        trained: Name prefixes of the parameters that train with every adapter.
        batch: Sequences per step.
        length: Tokens per sequence.
        checkpointing: Recompute activations in backward.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    targets: tuple[str, ...]
    trained: tuple[str, ...]
    batch: int
    length: int = 512
    checkpointing: bool = False


ROBERTA_LARGE = LargeModel(
    "RoBERTa large",
    "classification",
    Encoder(layers=24, hidden=1024, heads=16, intermediate=4096, vocabulary=50265).config(),
    ("q", "v"),
    ("classifier.", "roberta.embeddings.LayerNorm.bias"),
    batch=32,
)
GPT2_MEDIUM = LargeModel(
    "GPT-2 medium",
    "language",
    {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_embd": 1024,
        "n_layer": 24,
        "n_head": 16,
        "n_positions": 1024,
    },
    ("c_attn",),  # as one layer: PEFT does not split it into q, k and v
    ("transformer.h.0.ln_1.bias",),
    batch=16,
)
LLAMA_7B = LargeModel(
    "LLaMA 7B",
    "language",
    {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
    },
    ("q", "v"),
    ("model.layers.0.input_layernorm.weight",),
    batch=8,
    checkpointing=True,
)


@dataclass(frozen=True)
class LargeSettings:
    """Training steps of published shapes: bfloat16 weights, float32 adapters, bfloat16 autocast."""

    models: tuple[LargeModel, ...] = (ROBERTA_LARGE, GPT2_MEDIUM, LLAMA_7B)
    ranks: Ranks = Ranks()
    rounds: int = 7
    warm_up: int = 2


@dataclass(frozen=True)
class DecodingSettings:
    """A GPT-2 of the size of model=gpt2_mini with LoRA merged.

    Its random weights never end a text early.
    """

    config: Mapping[str, Any] = field(
        default_factory=lambda: {
            "model_type": "gpt2",
            "n_embd": 256,
            "n_layer": 4,
            "n_head": 4,
            "n_positions": 512,
        }
    )
    vocabulary: int = 2048
    batch: int = 16
    beams: int = 10
    new_tokens: int = 64
    every: int = 200  # every so many rows, one is generated alone and stands for the others
    rounds: int = 2  # two minutes each
    synthetic: bool = False  # use synthetic data even if RLORA_DATA has the real data


@dataclass(frozen=True)
class Settings:
    """The settings of all parts by the name of the part."""

    steps: StepSettings = StepSettings()
    files: FileSettings = FileSettings()
    growth: GrowthSettings = GrowthSettings()
    hadamard: HadamardSettings = HadamardSettings()
    inject: InjectSettings = InjectSettings()
    reports: ReportSettings = ReportSettings()
    decoding: DecodingSettings = DecodingSettings()
    large: LargeSettings = LargeSettings()


def quick() -> Settings:
    """Return tiny shapes and one or two rounds: the code runs, but the numbers mean nothing."""
    encoder = Encoder(layers=1, hidden=32, heads=2, intermediate=48, vocabulary=60, positions=40)
    shared: dict[str, Any] = {"ranks": QUICK_RANKS, "rounds": 2}
    return Settings(
        steps=StepSettings(encoder, batch=2, length=8, **shared),
        files=FileSettings(encoder, **shared),
        growth=GrowthSettings(
            16, 8, QUICK_RANKS, (8, 16), (1, 16), (2, 4), (16, 32), rounds=2, at_least=1e-4
        ),
        hadamard=HadamardSettings(
            (64, 128, 256), log2_numbers=12, largest_dense=128, rounds=2, at_least=1e-4
        ),
        inject=InjectSettings(encoder, **shared),
        reports=ReportSettings(runs=100, rounds=1),
        decoding=DecodingSettings(
            {**DecodingSettings().config, "n_embd": 32, "n_layer": 1},
            new_tokens=4,
            every=3,
            rounds=2,
            synthetic=True,
        ),
        large=LargeSettings(tuple(_shrunken()), warm_up=1, **shared),
    )


def _shrunken() -> list[LargeModel]:
    tiny: dict[str, dict[str, Any]] = {
        "roberta": Encoder(
            layers=1, hidden=32, heads=2, intermediate=48, vocabulary=60, positions=40
        ).config(),
        "gpt2": {"vocab_size": 60, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 40},
        "llama": {
            "vocab_size": 60,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        }
        | {"intermediate_size": 48, "max_position_embeddings": 40},
    }
    return [
        LargeModel(
            model.name,
            model.kind,
            dict(model.config) | tiny[model.config["model_type"]],
            model.targets,
            model.trained,
            batch=2,
            length=8,
            checkpointing=model.checkpointing,
        )
        for model in LargeSettings().models
    ]
