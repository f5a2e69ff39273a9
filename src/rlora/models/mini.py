"""A small decoder with a tokenizer learned from local texts, for machines without downloads."""

import os
from pathlib import Path
from typing import Any, Unpack

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rlora.io.rows import read_csv
from rlora.models.backbone import Backbone
from rlora.models.pretrained import LoadOptions, load_pretrained
from rlora.models.random_init import initialize

END = "<|endoftext|>"


def mini_decoder(
    config: dict[str, Any],
    *,
    corpus: str,
    column: str,
    vocabulary: int,
    path: str | None = None,
    **options: Unpack[LoadOptions],
) -> Backbone:
    """Build a random decoder with a byte-level BPE tokenizer, or load a trained one.

    Args:
        config: Fields of its transformers config, including `model_type`.
        corpus: CSV file to learn the tokenizer from, relative to $RLORA_DATA.
        column: Its column of texts.
        vocabulary: Maximum number of tokens.
        path: Folder of a trained one, as `python -m rlora.export` writes it.
        **options: See `LoadOptions`. Random weights have dtype float32.

    Raises:
        ValueError: the corpus does not exist or has no such column, or `path` cannot be loaded.
    """
    if path is not None:
        return load_pretrained(path, **options)
    length = int(config["n_positions"])
    tokenizer = byte_pair_tokenizer(_texts(corpus, column), vocabulary, length)
    fields = {
        **config,
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "attn_implementation": options.get("attention", "sdpa"),
    }
    return initialize(
        fields,
        tokenizer,
        f"random {config['model_type']}, tokens of {corpus}",
        kind=options["kind"],
        num_labels=options["num_labels"],
        labels=options.get("labels"),
        seed=options["seed"],
        gradient_checkpointing=options.get("gradient_checkpointing", False),
        quantize=options.get("quantize"),
    )


def byte_pair_tokenizer(
    texts: list[str], size: int, length: int
) -> transformers.PreTrainedTokenizerFast:
    """Learn byte-level BPE like GPT-2's, with one special token that starts, ends and pads texts.

    Args:
        texts: Texts to learn from.
        size: Maximum number of tokens.
        length: Longest input of the model, in tokens.
    """
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
            f"model.corpus={corpus} does not exist ({file}): set RLORA_DATA, or model.path to a "
            "trained model"
        )
    rows = read_csv(file)
    if rows and column not in rows[0][1]:
        raise ValueError(
            f"{file} has no column {column!r}: set model.column to one of {list(rows[0][1])}"
        )
    return [row[column] for _, row in rows]
