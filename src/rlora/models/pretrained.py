"""Load a pretrained transformer by hub id or from a folder."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Required, TypedDict

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from rlora.integrations.hf_hub import hub_answers
from rlora.models import quantization
from rlora.models.backbone import Backbone
from rlora.models.label_order import SavedHead, fit_head
from rlora.models.tokenizers import fit_tokenizer
from rlora.ops.fingerprint import fingerprint

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class BackboneOptions(TypedDict, total=False):
    """Options that every backbone has.

    Args:
        kind: Head: "classification", "regression", or "text" for a decoder's own output layer.
        num_labels: Number of outputs of the head. Ignored for text.
        labels: Label names in id order, which a checkpoint's head is matched with by name and which
            the model's config gets; None, the default: the names and order of the checkpoint.
        seed: Seed of all random weights. The global generators are left as they were.
        gradient_checkpointing: Recompute activations in backward: less memory, more time. Default
            False.
        quantize: "int8" or "nf4" stores the frozen weights in few bits, see
            `rlora.models.quantization`. None, the default, keeps them as they are.
    """

    kind: Required[str]
    num_labels: Required[int]
    labels: Sequence[str] | None
    seed: Required[int]
    gradient_checkpointing: bool
    quantize: str | None


class LoadOptions(BackboneOptions, total=False):
    """Options of every source of pretrained weights; defaults in `load_pretrained`.

    Args:
        dtype: "float32", "bfloat16" or "float16", for all weights.
        attention: Attention implementation, as transformers names it.
    """

    dtype: str
    attention: str


def load_pretrained(
    path: str,
    *,
    kind: str,
    num_labels: int,
    labels: Sequence[str] | None = None,
    seed: int,
    revision: str | None = None,
    dtype: str = "float32",
    attention: str = "sdpa",
    gradient_checkpointing: bool = False,
    quantize: str | None = None,
) -> Backbone:
    """Load a backbone by hub id or from a local folder, with the head that a task needs.

    Code inside a checkpoint is never executed.

    Args:
        path: Hub id such as "FacebookAI/roberta-base", or a folder with config, weights and
            tokenizer.
        kind: See `BackboneOptions`.
        num_labels: Number of outputs of the head.
        labels: See `BackboneOptions`. A head for others gets new values.
        seed: Seed of the head's initial values, unless the checkpoint has the head.
        revision: Commit of the hub repository. Ignored for a folder.
        dtype: See `LoadOptions`.
        attention: Attention implementation.
        gradient_checkpointing: Recompute activations in backward.
        quantize: "int8", "nf4" or None.

    Raises:
        ValueError: the hub cannot be reached, the folder does not hold a model, or the model
            cannot be quantized.
    """
    local = Path(path).expanduser().is_dir()
    _check(path, local, dtype)
    common: dict[str, Any] = {"trust_remote_code": False}
    if not local:
        common |= {"revision": revision, "local_files_only": not hub_answers()}
    source = str(Path(path).expanduser()) if local else path
    with _one_sentence(path, local):
        config = transformers.AutoConfig.from_pretrained(source, **common)
    saved = SavedHead.of(config)
    model_class = configure_head(kind, config, num_labels, labels)
    with _one_sentence(path, local), _quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model, loading = model_class.from_pretrained(
            source,
            config=config,
            dtype=DTYPES[dtype],
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # replace the saved head of another task
            **common,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **common)
    if len(tokenizer) < config.vocab_size / 2:  # transformers invents one if its files are missing
        raise ValueError(
            f"model.path={path} holds a model but no tokenizer: add its tokenizer files"
        )
    missing, mismatched = _parameters_to_start(path, model, loading)
    renewed, reason = fit_head(
        model, saved, kind=kind, labels=labels, missing=missing, mismatched=mismatched, seed=seed
    )
    if reason:
        log.warning("model.path=%s: the head gets new start values, as %s", path, reason)
    described = f"directory {path}" if local else f"hub {path}@{revision or 'main'}"
    fresh = sorted({*missing, *mismatched, *renewed})
    backbone = make_backbone(model, tokenizer, described, fresh, gradient_checkpointing, quantize)
    backbone.unused_head = reason
    return backbone


def _parameters_to_start(
    path: str, model: Any, loading: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Return the parameters that a checkpoint lacks, and those that it has in another shape.

    Raises:
        ValueError: the second are not of the head alone.
    """
    mismatched = [key[0] if isinstance(key, tuple) else key for key in loading["mismatched_keys"]]
    base = f"{model.base_model_prefix}."
    if broken := [name for name in mismatched if name.startswith(base)]:
        raise ValueError(
            f"model.path={path} holds {broken[0]} in another shape than its config says"
        )
    return list(loading["missing_keys"]), mismatched


def _check(path: str, local: bool, dtype: str) -> None:
    if not local and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ValueError(
            f"model.path={path} is not a directory: set it to one with config.json, weights and "
            "tokenizer"
        )
    if dtype not in DTYPES:
        raise ValueError(f"model.dtype={dtype!r} is unknown: choose one of {', '.join(DTYPES)}")


def configure_head(
    kind: str, config: Any, num_labels: int, labels: Sequence[str] | None = None
) -> Any:
    """Set a transformers config to a kind of head, and return the class of models that has it.

    Args:
        kind: "classification", "regression" or "text".
        config: A transformers config, changed in place.
        num_labels: Number of outputs of the head.
        labels: Label names in id order; None keeps those of the config.

    Raises:
        ValueError: an encoder cannot generate text.
    """
    if kind == "text":
        if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING:
            raise ValueError(
                f"a {config.model_type} model is an encoder and generates no text: choose a "
                "decoder, such as model=gpt2"
            )
        return transformers.AutoModelForCausalLM
    config.num_labels = num_labels
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: i for i, name in enumerate(labels)}
    config.problem_type = "regression" if kind == "regression" else "single_label_classification"
    return transformers.AutoModelForSequenceClassification


def make_backbone(
    model: nn.Module,
    tokenizer: Any,
    source: str,
    fresh: list[str],
    gradient_checkpointing: bool = False,
    quantize: str | None = None,
) -> Backbone:
    """Return a backbone whose model and tokenizer fit each other, quantized if asked.

    Args:
        model: The model, changed in place.
        tokenizer: Its tokenizer, changed in place.
        source: See `Backbone`.
        fresh: See `Backbone`.
        gradient_checkpointing: Recompute activations in backward.
        quantize: "int8", "nf4" or None.

    Raises:
        ValueError: The tokenizer does not fit the model; see `fit_tokenizer`.
    """
    fit_tokenizer(tokenizer, model, source)
    text_config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    for config in (model.config, text_config, getattr(model, "generation_config", None)):
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id  # type: ignore[union-attr]
    model.config.use_cache = False  # type: ignore[union-attr]  # generation asks for it itself
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    # The fingerprint is that of the original weights, so quantization comes after it.
    backbone = Backbone(source, model, tokenizer, fresh, fingerprint(model, fresh))
    if quantize is not None:
        quantization.quantize(model, quantize)
    return backbone


@contextmanager
def _one_sentence(path: str, local: bool) -> Iterator[None]:
    """Turn errors of loading into one sentence."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(_load_message(path, local, error)) from error


def _load_message(path: str, local: bool, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if not local and isinstance(error, OSError):
        return (
            f"the model {path} is not on this machine and cannot be downloaded from the Hugging "
            f"Face hub ({reason}): set model.path to a directory that holds it, or use model=minilm"
        )
    return (
        f"model.path={path} could not be loaded ({reason}): check it, model.attention and "
        "model.dtype"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' report of missing heads, as the record lists them."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
