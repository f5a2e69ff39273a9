"""The callback that collects what the run record says of training."""

import time
from typing import Any

import lightning as L

from rlora.data.batch import Batch
from rlora.records.record import Training
from rlora.records.scores import defined

SAVED = ("history", "examples", "tokens", "step_seconds", "seconds")


class Recorder(L.Callback):
    """Scores by epoch, throughput and time; saved in checkpoints for resumed runs.

    Args:
        started: When the run started, by `time.perf_counter()`; None for now.
    """

    def __init__(self, started: float | None = None) -> None:
        self.history: list[dict[str, float]] = []
        self.examples = 0
        self.tokens = 0
        self.step_seconds = 0.0
        self.seconds = 0.0
        self.world_size = 1
        self.earlier_seconds = 0.0  # wall time of the sessions before the checkpoint resumed from
        self._started = time.perf_counter() if started is None else started
        self.best_epoch: int | None = None  # the epoch whose weights are kept, set after training
        self._epoch_started = 0.0
        self._fit_started = 0.0
        self._validation_started = 0.0
        self._validation_seconds = 0.0
        self._validated = -1  # the epoch of the last validation

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clocks: resuming within an epoch skips `on_train_epoch_start`."""
        self._fit_started = self._epoch_started = time.perf_counter()
        self._validation_seconds = 0.0
        self.world_size = trainer.world_size

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch_started = time.perf_counter()
        self._validation_seconds = 0.0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count examples, and tokens without padding."""
        self.examples += len(batch["index"])
        self.tokens += batch["num_tokens"]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the epoch's clock: validation does not count as training time."""
        self._validation_started = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock again."""
        self._validation_seconds += time.perf_counter() - self._validation_started
        self._validated = trainer.current_epoch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch to the history, with validation scores if it was validated."""
        # Reading the scores waits for the device, so that the clock stops after its last step.
        scores = {
            k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith("_step")
        }
        if self._validated != trainer.current_epoch:  # Lightning keeps the scores of an earlier one
            scores = {k: v for k, v in scores.items() if not k.startswith("validation/")}
        now = time.perf_counter()
        self.step_seconds += now - self._epoch_started - self._validation_seconds
        self.seconds += now - self._fit_started
        self._fit_started = now
        scores = {k.removesuffix("_epoch"): v for k, v in scores.items()}
        self.history.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **scores})

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make a run with `trainer.max_steps` resume at the start of the next epoch.

        Lightning would first end the last epoch again, without steps and scores.
        """
        loop = checkpoint["loops"]["fit_loop"]
        epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
        if trainer.max_steps == -1 or epochs["current"]["processed"] < epochs["current"]["ready"]:
            return
        for progress in epochs.values():
            progress["completed"] = progress["processed"]
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        state = {name: getattr(self, name) for name in SAVED}
        return {**state, "run_seconds": self.run_seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        for name in SAVED:
            setattr(self, name, state_dict[name])
        # checkpoints of earlier versions have the time of training only
        self.earlier_seconds = state_dict.get("run_seconds", self.seconds)

    def run_seconds(self) -> float:
        """Return the wall time of the run so far, including the sessions that it resumes."""
        return self.earlier_seconds + time.perf_counter() - self._started

    def training(self) -> Training:
        """Return the record's section on training."""
        rate = self.world_size / self.step_seconds if self.step_seconds else 0.0
        return Training(
            epochs=len(self.history),
            steps=int(self.history[-1]["step"]) if self.history else 0,
            seconds=self.seconds,
            examples_per_second=self.examples * rate,
            tokens_per_second=self.tokens * rate,
            best_epoch=self.best_epoch,
            history=[defined(row) for row in self.history],
        )
