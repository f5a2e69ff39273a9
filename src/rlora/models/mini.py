"""A small decoder with a tokenizer of its own, from texts at hand: where no pretrained one can be downloaded."""

import csv
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rlora.models.backbone import Backbone
from rlora.models.pretrained import finish, head_for, pretrained

END = "<|endoftext|>"


def mini_decoder(
    config: dict[str, Any],
    *,
    kind: str,
    num_labels: int,
    seed: int,
    corpus: str,
    column: str,
    vocabulary: int,
    path: str | None = None,
    dtype: str = "float32",
    attention: str = "sdpa",
    gradient_checkpointing: bool = False,
    quantize: str | None = None,
) -> Backbone:
    """Start a decoder at random, with byte-level BPE learned from a column of a CSV file; or load one that was trained.

    Args:
        config: Fields of its transformers config, `model_type` among them.
        kind: "text", or what `pretrained` takes besides.
        num_labels: Outputs of the head.
        seed: Seed of the weights; the global generators are put back.
        corpus: The CSV file; relative to $RLORA_DATA.
        column: Its column of texts.
        vocabulary: Most tokens.
        path: Directory of a trained one, as `python -m rlora.export` writes it; it is then loaded as any other.
        dtype: "float32", "bfloat16" or "float16", of a loaded one.
        attention: Implementation of attention as transformers names it.
        gradient_checkpointing: Recompute activations in backward.
        quantize: "int8", "nf4" or None.

    Raises:
        ValueError: the corpus is not there, or has no such column.
    """
    if path is not None:
        return pretrained(
            path,
            kind=kind,
            num_labels=num_labels,
            seed=seed,
            dtype=dtype,
            attention=attention,
            gradient_checkpointing=gradient_checkpointing,
            quantize=quantize,
        )
    fields = dict(config)
    tokenizer = byte_pair_tokenizer(_texts(corpus, column), vocabulary, int(fields["n_positions"]))
    settings = transformers.AutoConfig.for_model(
        fields.pop("model_type"),
        **fields,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attn_implementation=attention,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = head_for(kind, settings, num_labels).from_config(settings)
    source = f"random {settings.model_type}, tokens of {corpus}"
    return finish(net, tokenizer, source, [], gradient_checkpointing, quantize)


def byte_pair_tokenizer(
    texts: list[str], size: int, length: int
) -> transformers.PreTrainedTokenizerFast:
    """Learn byte-level BPE as GPT-2 has it, with one special token, which ends texts, begins them and pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {text}" for text in texts], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        eos_token=END,
        bos_token=END,
        unk_token=END,
        pad_token=END,
    )


def _texts(corpus: str, column: str) -> list[str]:
    file = Path(os.environ.get("RLORA_DATA", ".")).expanduser() / corpus
    if not file.is_file():
        raise ValueError(
            f"model.corpus={corpus} is not there ({file}): set RLORA_DATA, or model.path to a model trained before"
        )
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        if column not in (reader.fieldnames or ()):
            raise ValueError(
                f"{file} has no column {column!r}; set model.column to one of {reader.fieldnames}"
            )
        return [row[column] or "" for row in reader]
