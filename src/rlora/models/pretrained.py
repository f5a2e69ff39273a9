"""Load a pretrained transformer by hub id or from a directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from rlora.integrations.hf_hub import hub_answers
from rlora.models import quantization
from rlora.models.backbone import Backbone
from rlora.ops.fingerprint import fingerprint


def pretrained(
    path: str,
    *,
    kind: str,
    num_labels: int,
    seed: int,
    revision: str | None = None,
    dtype: str = "float32",
    attention: str = "sdpa",
    gradient_checkpointing: bool = False,
    quantize: str | None = None,
) -> Backbone:
    """Load a backbone by hub id or from a local directory, with the head a task asks for.

    Code that comes with a checkpoint is never run.

    Args:
        path: Hub id such as "FacebookAI/roberta-base", or a directory holding config, weights and tokenizer.
        kind: "classification", "regression" or "text", which a decoder's own output layer writes.
        num_labels: Outputs of the head; of no meaning for text.
        seed: Seed of the head's start; the global generators are put back.
        revision: Commit of the hub repository; ignored for a directory.
        dtype: "float32", "bfloat16" or "float16", for the frozen weights and all else.
        attention: Implementation of attention as transformers names it.
        gradient_checkpointing: Recompute activations in backward: memory against time.
        quantize: "int8" or "nf4": hold the frozen weights in few bits, see `rlora.models.quantization`; None: in dtype.

    Raises:
        ValueError: the hub cannot be reached, the directory does not hold a model, or it cannot be quantized.
    """
    local = Path(path).expanduser().is_dir()
    if not local and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ValueError(
            f"model.path={path} is not a directory: give one with config.json, weights and tokenizer"
        )
    weights = _dtype(dtype)
    common: dict[str, Any] = {"trust_remote_code": False}
    if not local:
        common |= {"revision": revision, "local_files_only": not hub_answers()}
    source = str(Path(path).expanduser()) if local else path
    with _told_as(path, local):
        config = transformers.AutoConfig.from_pretrained(source, **common)
    family = head_for(kind, config, num_labels)
    with _told_as(path, local), _quiet(), _seeded(seed):
        net, loading = family.from_pretrained(
            source,
            config=config,
            dtype=weights,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # a saved head of another task gives way to a new one
            **common,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **common)
    if (
        len(tokenizer) < config.vocab_size / 2
    ):  # an empty one is made up where the files are missing
        raise ValueError(
            f"model.path={path} holds a model but no tokenizer: put its tokenizer files beside it"
        )
    mismatched = [key[0] if isinstance(key, tuple) else key for key in loading["mismatched_keys"]]
    if broken := [name for name in mismatched if name.startswith(f"{net.base_model_prefix}.")]:
        raise ValueError(
            f"model.path={path} holds {broken[0]} in another shape than its config says"
        )
    described = f"directory {path}" if local else f"hub {path}@{revision or 'main'}"
    fresh = sorted({*loading["missing_keys"], *mismatched})
    return finish(net, tokenizer, described, fresh, gradient_checkpointing, quantize)


def head_for(kind: str, config: Any, num_labels: int) -> Any:
    """Prepare a config for a kind of head, and return the class of transformers that has it.

    Raises:
        ValueError: text is asked of an encoder.
    """
    if kind == "text":
        if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING:
            raise ValueError(
                f"a {config.model_type} model is an encoder and writes no text: choose a decoder, such as model=gpt2"
            )
        return transformers.AutoModelForCausalLM
    config.num_labels = num_labels
    config.problem_type = "regression" if kind == "regression" else "single_label_classification"
    return transformers.AutoModelForSequenceClassification


def finish(
    net: nn.Module,
    tokenizer: Any,
    source: str,
    fresh: list[str],
    gradient_checkpointing: bool = False,
    quantize: str | None = None,
) -> Backbone:
    """Give model and tokenizer one padding token, take the fingerprint, and quantize what it was taken of."""
    if tokenizer.pad_token is None:  # decoders are trained without one
        tokenizer.pad_token = tokenizer.eos_token
    for settings in (net.config, getattr(net, "generation_config", None)):
        if settings is not None:
            settings.pad_token_id = tokenizer.pad_token_id  # type: ignore[union-attr]
    net.config.use_cache = False  # type: ignore[union-attr]  # what writes texts asks for keys and values itself
    if gradient_checkpointing:
        net.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    made = Backbone(source, net, tokenizer, fresh, fingerprint(net, fresh))
    if quantize is not None:
        quantization.quantize(net, quantize)
    return made


def _dtype(name: str) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ValueError(f"model.dtype={name!r} is unknown: choose one of {', '.join(known)}")
    return known[name]


@contextmanager
def _told_as(path: str, local: bool) -> Iterator[None]:
    """Turn what goes wrong in loading into one sentence."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(_cannot_load(path, local, error)) from error


def _cannot_load(path: str, local: bool, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if not local and isinstance(error, OSError):
        return (
            f"the model {path} is not on this machine and the Hugging Face hub did not give it ({reason}): set "
            "model.path to a directory that holds it, or use model=minilm"
        )
    return f"model.path={path} could not be loaded ({reason}): check it, model.attention and model.dtype"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the report of missing heads off the console: the record lists them."""
    verbosity, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
