"""Randomly initialized transformers. Small ones with a byte tokenizer serve tests and trials."""

from collections.abc import Sequence
from typing import Any, Unpack

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from rlora.models.backbone import Backbone
from rlora.models.pretrained import BackboneOptions, configure_head, make_backbone

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def random_model(config: dict[str, Any], **options: Unpack[BackboneOptions]) -> Backbone:
    """Build a randomly initialized model of any transformers type, with a byte tokenizer.

    Args:
        config: Fields of its transformers config, including `model_type`.
        **options: See `BackboneOptions`.
    """
    tokenizer = byte_tokenizer()
    fields = {
        **config,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    return initialize(fields, tokenizer, f"random {config['model_type']}", **options)


def initialize(
    config: dict[str, Any],
    tokenizer: transformers.PreTrainedTokenizerFast,
    source: str,
    *,
    kind: str,
    num_labels: int,
    labels: Sequence[str] | None = None,
    seed: int,
    gradient_checkpointing: bool = False,
    quantize: str | None = None,
) -> Backbone:
    """Build a randomly initialized model for a tokenizer.

    Args:
        config: Fields of its transformers config, including `model_type`.
        tokenizer: Its tokenizer, which sets the size of the vocabulary.
        source: See `Backbone`.
        kind: See `BackboneOptions`.
        num_labels: Number of outputs of the head.
        labels: Label names in id order, or None.
        seed: Seed of all weights.
        gradient_checkpointing: Recompute activations in backward.
        quantize: "int8", "nf4" or None.
    """
    # before the model is built: RoBERTa counts its positions from the padding token
    fields = {**config, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    transformers_config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    model_class = configure_head(kind, transformers_config, num_labels, labels)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class.from_config(transformers_config)
    base = f"{model.base_model_prefix}."
    names = [name for name, _ in model.named_parameters()]
    # All weights are random. Only the head counts as fresh, as if the rest were pretrained.
    fresh = [] if kind == "text" else [name for name in names if not name.startswith(base)]
    return make_backbone(model, tokenizer, source, fresh, gradient_checkpointing, quantize)


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte, which needs no vocabulary file."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        **dict(zip(["pad_token", "unk_token", "cls_token", "sep_token"], SPECIAL, strict=True)),
    )
