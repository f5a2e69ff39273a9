"""Evaluation with W + dW in the place of W, so that no adapter costs anything there."""

import logging
from typing import Any

import lightning as L
import torch

from rlora.adapters import AdapterSet

log = logging.getLogger(__name__)


class MergedEvaluation(L.Callback):
    """Merge the adapters where a loop of validation, test or prediction starts, and bring W back where it ends.

    The sum is that of the parameters at the start of the loop. What comes after it among the callbacks finds W again
    when a loop has ended or failed; Lightning puts those that write checkpoints last. Where merging is not possible, or
    memory does not hold W beside W + dW, the adapters stay as they are in training.

    Args:
        adapters: What `inject` gave for the backbone.
    """

    def __init__(self, adapters: AdapterSet) -> None:
        self._adapters = adapters
        self._mine = False  # whether there is something to undo
        self._possible: bool | None = (
            None  # found out at the first loop, and then the same for all of them
        )

    # Outside inference mode: a tensor made in it, in W or in what an adapter keeps, could not be trained with.
    @torch.inference_mode(False)
    def _merge(self, *_: Any, **__: Any) -> None:
        if self._possible is None:
            self._possible = self._can_merge()
        if not self._possible or self._adapters.is_merged:  # merged: by the caller of the loop
            return
        self._mine = True
        try:
            self._adapters.merge()
        except torch.OutOfMemoryError:  # nothing is merged then
            self._mine = self._possible = False
            log.warning(
                "the device's memory does not hold the merged weights beside the frozen ones: evaluation runs unmerged "
                "(merge_for_evaluation=false leaves out the try)"
            )

    def _can_merge(self) -> bool:
        reason = self._adapters.mergeable()
        if reason:
            log.info("%s: evaluation runs unmerged", reason)
        return reason is None

    @torch.inference_mode(False)
    def _restore(self, *_: Any, **__: Any) -> None:
        if not self._mine:
            return
        if self._adapters.is_merged:  # an earlier call may have failed after the last layer
            self._adapters.unmerge()
        self._mine = False

    on_validation_start = on_test_start = on_predict_start = _merge
    on_validation_end = on_test_end = on_predict_end = _restore
    on_exception = teardown = _restore
