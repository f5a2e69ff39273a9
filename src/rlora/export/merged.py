"""Export as an ordinary transformers model, with the updates merged into the weights."""

import logging
from pathlib import Path
from typing import Any

from rlora.export.card import label_names
from rlora.models import quantization
from rlora.runs.load import TrainedRun

log = logging.getLogger(__name__)


def write_merged(run: TrainedRun, folder: Path) -> None:
    """Write backbone, adapter, head, label names and tokenizer as a transformers folder.

    W' = W + dW is added in float32 and stored in the dtype of the backbone; tied weights stay tied.
    A quantized W is dequantized first, because dW was trained on top of the dequantized values.

    Raises:
        ValueError: The backbone cannot hold the sum.
    """
    quantized_dtype = quantization.dequantize(run.backbone.model)
    if quantized_dtype:
        log.warning("the backbone was quantized (%s): it is written dequantized", quantized_dtype)
    if reason := run.adapters.mergeable():
        raise ValueError(f"--format merged is impossible: {reason}")
    model = run.adapters.unwrap()
    # Training turns the key-value cache off; whoever loads the model expects it to be on.
    model.config.use_cache = True  # type: ignore[union-attr]
    if names := label_names(run):
        model.config.id2label = dict(enumerate(names))  # type: ignore[union-attr]
        model.config.label2id = {name: i for i, name in enumerate(names)}  # type: ignore[union-attr]
    make_savable(getattr(model, "generation_config", None))
    model.save_pretrained(folder)  # type: ignore[operator]
    run.backbone.processor.save_pretrained(folder)


def make_savable(options: Any) -> None:
    """Say in a model's decoding options that it samples, where they set how.

    transformers loads a temperature without `do_sample`, as some published models have it, but
    refuses to write it.
    """
    if options is None:
        return
    try:
        options.validate(strict=True)
    except ValueError:
        options.do_sample = True
