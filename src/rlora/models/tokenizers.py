"""The fit of a tokenizer and its model: padding token, vocabulary and positions."""

from typing import Any

from torch import nn

USED = ("pad_token", "eos_token", "bos_token", "cls_token", "sep_token", "unk_token")
POSITIONS = ("position_embeddings", "wpe", "embed_positions", "positions_embed")
ROTARY = ("rope_parameters", "rotary_dim")  # fields of configs with rotary positions


def fit_tokenizer(tokenizer: Any, model: Any, source: str) -> None:
    """Give a tokenizer a padding token and the model's number of positions, in place.

    Args:
        tokenizer: A Hugging Face tokenizer.
        model: The model that reads its tokens.
        source: Of the model, for messages.

    Raises:
        ValueError: the tokenizer has no token to pad with, or tokens without an embedding.
    """
    if tokenizer.pad_token_id is None:  # decoders are pretrained without one
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"{source}: its tokenizer has neither a pad_token nor an eos_token to pad with: "
                "set pad_token in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    embeddings = model.get_input_embeddings().weight.shape[0]
    if outside := _tokens_outside(tokenizer, embeddings):
        name, token = next(iter(outside.items()))
        raise ValueError(
            f"{source}: its tokenizer has {name} with id {token}, but the model has embeddings for "
            f"0..{embeddings - 1}: use the tokenizer of this model, or resize its embeddings"
        )
    # A tokenizer whose files give no limit says 1e30.
    limit = number_of_positions(model)
    if limit is not None and limit < tokenizer.model_max_length:
        tokenizer.model_max_length = limit


def number_of_positions(model: Any) -> int | None:
    """Return the longest input that a model has positions for, None where there is no limit."""
    learned = [
        # RoBERTa counts positions from behind its padding token, OPT from an offset.
        module.num_embeddings - getattr(module, "offset", 0) - _first_position(module)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in POSITIONS and isinstance(module, nn.Embedding)
    ]
    if learned:
        return int(min(learned))
    config = model.config.get_text_config()
    if getattr(config, "alibi", False) or not any(getattr(config, key, None) for key in ROTARY):
        return None
    limit = getattr(config, "max_position_embeddings", None)
    return None if limit is None else int(limit)


def _first_position(embedding: nn.Embedding) -> int:
    return 0 if embedding.padding_idx is None else embedding.padding_idx + 1


def _tokens_outside(tokenizer: Any, embeddings: int) -> dict[str, int]:
    """Return the tokens that texts can contain and that have no embedding, by description."""
    ids = {
        f"the {name} {getattr(tokenizer, name)!r}": getattr(tokenizer, f"{name}_id", None)
        for name in USED
    }
    # Special tokens that no text contains may be outside, as Gemma's token of an image is.
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    vocabulary = tokenizer.get_vocab()
    ids |= {
        f"the token {name!r}": token for name, token in vocabulary.items() if name not in special
    }
    return {name: token for name, token in ids.items() if token is not None and token >= embeddings}
