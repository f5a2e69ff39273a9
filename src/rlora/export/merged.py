"""One ordinary transformers model with W + dW in its layers."""

import logging
from pathlib import Path

from rlora.models import quantization
from rlora.runs.load import TrainedRun

log = logging.getLogger(__name__)


def write_merged(run: TrainedRun, folder: Path) -> None:
    """Write backbone, adapter and head as a transformers directory, tokenizer included.

    W' = W + dW, added in float32 and kept in the backbone's dtype; tied weights stay tied. Of a quantized backbone W is
    what its few bits stand for, so that what was trained is what is written.

    Raises:
        ValueError: the backbone cannot hold the sum.
    """
    if was := quantization.dense(run.backbone.model):
        log.warning(
            "W was held as %s: the sum is added to what that stands for, and written unquantized",
            was,
        )
    if reason := run.adapters.mergeable():
        raise ValueError(f"it cannot be merged: {reason}")
    model = run.adapters.unwrap()
    model.config.use_cache = True  # type: ignore[union-attr]  # as others expect it
    model.save_pretrained(folder)  # type: ignore[operator]
    run.backbone.processor.save_pretrained(folder)
