"""Small transformers with random weights and a byte tokenizer: for tests and for trying a config in seconds."""

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from rlora.models.backbone import Backbone
from rlora.models.pretrained import finish, head_for

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def random_model(
    config: dict[str, Any],
    *,
    kind: str,
    num_labels: int,
    seed: int,
    gradient_checkpointing: bool = False,
    quantize: str | None = None,
) -> Backbone:
    """Build a randomly initialized model of any transformers type.

    Args:
        config: Fields of its transformers config, `model_type` among them.
        kind: "classification", "regression" or "text".
        num_labels: Outputs of the head.
        seed: Seed of the weights of the backbone and of the head; the global generators are put back.
        gradient_checkpointing: Recompute activations in backward.
        quantize: "int8", "nf4" or None.
    """
    fields = dict(config)
    tokenizer = byte_tokenizer()
    settings = transformers.AutoConfig.for_model(
        fields.pop("model_type"),
        **fields,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = head_for(kind, settings, num_labels).from_config(settings)
    base = f"{net.base_model_prefix}."
    fresh = (
        []
        if kind == "text"
        else [name for name, _ in net.named_parameters() if not name.startswith(base)]
    )
    return finish(
        net, tokenizer, f"random {settings.model_type}", fresh, gradient_checkpointing, quantize
    )


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token a byte: no vocabulary to ship."""
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
