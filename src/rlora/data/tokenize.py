"""Tokenization with a cache on disk.

One safetensors file holds a split: the token ids of all examples in one array, and the start of
each example. The file is written under a temporary name and renamed when complete; a checksum
detects a damaged file.
"""

import hashlib
import json
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rlora.data.examples import Examples
from rlora.io.atomic import write_atomically

log = logging.getLogger(__name__)

CACHE_FORMAT = 1
CHUNK = (
    2000  # texts per call of the tokenizer: few enough to move the bar, enough to keep its speed
)
SHOW_PROGRESS_FROM = 20_000  # rows, which take one or two seconds


@dataclass(frozen=True)
class Tokens:
    """Token ids of N examples in one array.

    Attributes:
        input_ids: Ids of all examples (L,), int32.
        offsets: Start of each example and the end of the last (N + 1,), int64.
        token_type_ids: Segment of each token (L,), uint8, or None where the tokenizer returns none.
    """

    input_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    token_type_ids: NDArray[np.uint8] | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each example (N,)."""
        return np.diff(self.offsets)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, without the missing one."""
        arrays: dict[str, NDArray[Any]] = {"input_ids": self.input_ids, "offsets": self.offsets}
        if self.token_type_ids is not None:
            arrays["token_type_ids"] = self.token_type_ids
        return arrays

    def checksum(self) -> str:
        """Return the CRC-32 of all arrays."""
        crc = 0
        for _, array in sorted(self.arrays().items()):
            crc = zlib.crc32(array.tobytes(), crc)
        return f"{crc:08x}"


def tokenizer_identity(tokenizer: Any) -> str:
    """Return the SHA-256 (hex) of everything that determines the ids of a text."""
    facts: dict[str, Any] = {
        "class": type(tokenizer).__name__,
        "inputs": list(tokenizer.model_input_names),
        "truncation_side": tokenizer.truncation_side,
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        facts["backend"] = json.loads(backend.to_str())
        # State of the last call: with it, tokenizing a text would change the digest.
        facts["backend"].pop("truncation", None)
        facts["backend"].pop("padding", None)
    else:
        facts["vocabulary"] = tokenizer.get_vocab()
        facts["settings"] = {key: str(value) for key, value in tokenizer.init_kwargs.items()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def special_token(tokenizer: Any, purpose: str, *names: str) -> int:
    """Return the id of the first of these special tokens that a tokenizer has.

    Args:
        tokenizer: A Hugging Face tokenizer.
        purpose: Use of the token, for the message.
        names: Names such as `pad_token`.

    Raises:
        ValueError: The tokenizer has none of them.
    """
    ids = [getattr(tokenizer, f"{name}_id", None) for name in names]
    token = next((value for value in ids if value is not None), None)
    if token is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no token {purpose} ({' or '.join(names)}); "
            "choose another model."
        )
    return int(token)


def tokenize(
    examples: Examples, tokenizer: Any, *, max_length: int | None, label: str, special: bool = True
) -> Tokens:
    """Tokenize examples of one or two text fields.

    Args:
        examples: N examples.
        tokenizer: A Hugging Face tokenizer.
        max_length: Maximum number of tokens of an example; of a pair the longer text is truncated
            first. None: no limit.
        label: Text of the progress bar.
        special: Whether the tokenizer adds its special tokens.
    """
    from rich.progress import Progress

    ids: list[NDArray[np.int32]] = []
    types: list[NDArray[np.uint8]] = []
    lengths = [0]
    hidden = len(examples) < SHOW_PROGRESS_FROM
    with Progress(disable=hidden, transient=True) as bar:
        job = bar.add_task(f"Tokenizing {label}", total=len(examples))
        for start in range(0, len(examples), CHUNK):
            rows = examples.texts[start : start + CHUNK]
            fields = [list(column) for column in zip(*rows, strict=True)]
            encoded = tokenizer(
                *fields,
                truncation=max_length is not None,
                max_length=max_length,
                return_attention_mask=False,
                add_special_tokens=special,
                verbose=False,  # the caller reports texts longer than the model's context
            )
            lengths.extend(len(row) for row in encoded["input_ids"])
            ids.append(
                np.concatenate([np.asarray(row, dtype=np.int32) for row in encoded["input_ids"]])
            )
            if "token_type_ids" in encoded:
                types.append(
                    np.concatenate(
                        [np.asarray(row, dtype=np.uint8) for row in encoded["token_type_ids"]]
                    )
                )
            bar.advance(job, len(rows))
    return Tokens(
        np.concatenate(ids) if ids else np.zeros(0, dtype=np.int32),
        np.cumsum(lengths, dtype=np.int64),
        np.concatenate(types) if types else None,
    )


def cached_tokens(
    examples: Examples,
    tokenizer: Any,
    *,
    identity: str,
    max_length: int | None,
    label: str,
    cache_dir: Path,
    special: bool = True,
) -> Tokens:
    """Return the tokens of the examples from the cache, or tokenize and cache them.

    The cache key covers the texts, the tokenizer, `max_length`, `special` and the file format, but
    not the labels.

    Args:
        examples: N examples.
        tokenizer: A Hugging Face tokenizer.
        identity: Its `tokenizer_identity`.
        max_length: Maximum number of tokens of an example, or None.
        label: Task and split, for the file name and the progress bar.
        cache_dir: Folder of the cache files.
        special: Whether the tokenizer adds its special tokens.
    """
    marker = "" if special else "|plain"
    key = f"{CACHE_FORMAT}|{examples.text_digest}|{identity}|{max_length}{marker}"
    path = cache_dir / f"{label}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    if path.exists():
        try:
            return _load(path, len(examples))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            log.warning("The token cache %s is damaged (%s); rebuilding it.", path, error)
    tokens = tokenize(examples, tokenizer, max_length=max_length, label=label, special=special)
    try:
        write_atomically(path, save(tokens.arrays(), metadata={"checksum": tokens.checksum()}))
    except OSError as error:
        log.warning("Could not write the token cache %s (%s); continuing without it.", path, error)
    return tokens


def _load(path: Path, rows: int) -> Tokens:
    with safe_open(path, framework="numpy") as file:
        names = file.keys()
        types = file.get_tensor("token_type_ids") if "token_type_ids" in names else None
        tokens = Tokens(file.get_tensor("input_ids"), file.get_tensor("offsets"), types)
        checksum = (file.metadata() or {}).get("checksum")
    if len(tokens.offsets) != rows + 1 or tokens.checksum() != checksum:
        raise ValueError("its contents do not match its checksum")
    return tokens
