"""Evaluation with W + dW in place of W, without the cost of adapters."""

import logging
from typing import Any

import lightning as L
import torch

from rlora.adapters import AdapterSet

log = logging.getLogger(__name__)


class MergedEvaluation(L.Callback):
    """Merge the adapters for each validation, test and prediction, and restore W after it.

    Later callbacks see W again when a loop has ended or failed, so that no checkpoint holds merged
    weights: Lightning calls the callbacks that write checkpoints last. Where merging is impossible,
    or memory cannot hold both W and W + dW, the adapters stay unmerged.

    Args:
        adapters: Adapters in the backbone, as `inject` returns them.
    """

    def __init__(self, adapters: AdapterSet) -> None:
        self._adapters = adapters
        self._merged_here = (
            False  # False for what the caller of a loop merged: the caller restores it
        )
        self._possible: bool | None = None  # decided at the first loop, once for all loops

    # Outside inference mode: autograd refuses tensors created inside it, so that neither W nor what
    # an adapter caches may come from there.
    @torch.inference_mode(False)
    def _merge(self, *_: Any, **__: Any) -> None:
        if self._possible is None:
            self._possible = self._can_merge()
        if not self._possible or self._adapters.is_merged:
            return
        self._merged_here = True
        try:
            self._adapters.merge()
        except torch.OutOfMemoryError:  # `merge` restores all layers on an error
            self._merged_here = self._possible = False
            log.warning(
                "the device's memory cannot hold both frozen and merged weights: evaluation runs "
                "unmerged; set merge_for_evaluation=false to skip the attempt"
            )

    def _can_merge(self) -> bool:
        reason = self._adapters.mergeable()
        if reason:
            log.info("%s: evaluation runs unmerged", reason)
        return reason is None

    @torch.inference_mode(False)
    def _restore(self, *_: Any, **__: Any) -> None:
        if not self._merged_here:
            return
        if self._adapters.is_merged:  # an earlier call may have failed after the last layer
            self._adapters.unmerge()
        self._merged_here = False

    on_validation_start = on_test_start = on_predict_start = _merge
    on_validation_end = on_test_end = on_predict_end = _restore
    on_exception = teardown = _restore
