"""The progress of a run: one line with the remaining time."""

import datetime
import logging
import shutil
import sys
import time
from typing import Any, TextIO

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn

BAR = 20  # characters
SECONDS = 0.5  # between two redraws that read nothing from the device
ERASE = "\r\x1b[K"
STAGES = {"validate": "validating", "test": "testing", "predict": "predicting"}


class Progress(ProgressBar):
    """One line for the whole run: epoch, step, loss, last validation scores, remaining time.

    On a terminal the line is redrawn in place. Elsewhere, such as in a file, each epoch writes one
    line. Reading the loss waits for the device, so that a redraw reads it every `refresh_rate`
    batches only. Whatever is logged with `prog_bar=True` in a step would be read at every step.

    Args:
        refresh_rate: Batches between two readings of the loss.
        stream: Where to write; standard error by default.
    """

    def __init__(self, refresh_rate: int = 20, stream: TextIO | None = None) -> None:
        super().__init__()
        self.refresh_rate = max(1, refresh_rate)
        self._stream = stream
        self._enabled = True
        self._drawn = False  # whether the cursor is behind the line
        self._drawn_at = 0.0
        self._loss: float | None = None
        self._scores: dict[str, float] = {}
        self._total_steps = 0
        self._start_step = 0
        self._start_time = 0.0
        self._handlers: list[logging.Handler] = []

    def disable(self) -> None:
        """Write nothing from now on; Lightning calls it on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Write again."""
        self._enabled = True

    @property
    def stream(self) -> TextIO:
        """Where the line is written; looked up late, as tests and notebooks replace it."""
        return self._stream or sys.stderr

    @property
    def in_place(self) -> bool:
        """Whether the line can be redrawn."""
        return self._enabled and self.stream.isatty()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock; a resumed run counts the steps of this session only for its speed."""
        self._start_step, self._start_time = trainer.global_step, time.monotonic()
        self._total_steps = int(trainer.estimated_stepping_batches)
        # a log message erases the line first, or it would continue it
        self._handlers = list(logging.getLogger().handlers)
        for handler in self._handlers:
            handler.addFilter(self._erase_before_log)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Redraw the line, with the present loss every `refresh_rate` batches."""
        if not self.in_place:
            return
        number = batch_idx + 1
        if number % self.refresh_rate == 0 or number == trainer.num_training_batches:
            self._read_loss(trainer, "train/loss_step")
            self._draw(self._line(trainer))
        elif self._is_due():
            self._draw(self._line(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch's line where the line cannot be redrawn."""
        if self._enabled and not self.in_place:
            self._read_loss(trainer, "train/loss_epoch")
            print(self._line(trainer, bar=False), file=self.stream, flush=True)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show the position within a validation, test or prediction."""
        if not (self.in_place and self._is_due()):
            return
        stage = trainer.state.stage
        name = STAGES.get(stage.value, "") if stage else ""
        position = f"{name} batch {batch_idx + 1}"
        self._draw(f"{self._line(trainer)}  {position}" if _is_fitting(trainer) else position)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the scores; after a test or a prediction erase the line."""
        if _is_fitting(trainer) and not trainer.sanity_checking:
            self._scores = {
                key: float(value)
                for key, value in trainer.progress_bar_metrics.items()
                if key.startswith("validation") and isinstance(value, int | float)
            }
            if self.in_place:
                self._draw(self._line(trainer))
        else:
            self._erase()

    on_test_end = on_predict_end = on_validation_end

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the line on the screen."""
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the line on the screen, so that the error starts a new one."""
        self._close()

    def _line(self, trainer: L.Trainer, *, bar: bool = True) -> str:
        step, total = trainer.global_step, self._total_steps
        epochs = trainer.max_epochs
        of_epochs = f"/{epochs}" if epochs is not None and epochs > 0 else ""
        parts = [f"epoch {trainer.current_epoch + 1}{of_epochs}", f"step {step}/{total}"]
        # the time comes first: a narrow terminal cuts the end of the line
        elapsed, done = time.monotonic() - self._start_time, step - self._start_step
        if step >= total:
            parts.append(f"trained in {_duration(elapsed)}")
        elif done > 0:
            parts.append(f"{_duration(elapsed / done * (total - step))} left")
        if bar:
            filled = min(BAR, BAR * step // max(1, total))
            parts.append(f"[{'#' * filled}{'.' * (BAR - filled)}]")
        if self._loss is not None:
            parts.append(f"loss {self._loss:.3f}")
        parts += [f"{name} {score:.4f}" for name, score in self._scores.items()]
        return "  ".join(parts)

    def _read_loss(self, trainer: L.Trainer, key: str) -> None:
        loss = trainer.callback_metrics.get(key)
        self._loss = None if loss is None else float(loss)  # waits for the device

    def _is_due(self) -> bool:
        return time.monotonic() - self._drawn_at >= SECONDS

    def _draw(self, line: str) -> None:
        width = shutil.get_terminal_size().columns
        self.stream.write(ERASE + line[: max(1, width - 1)])  # a wrapped line cannot be erased
        self.stream.flush()
        self._drawn, self._drawn_at = True, time.monotonic()

    def _erase(self) -> None:
        if self._drawn and self.in_place:
            self.stream.write(ERASE)
            self.stream.flush()
        self._drawn = False

    def _erase_before_log(self, record: logging.LogRecord) -> bool:
        self._erase()
        return True

    def _close(self) -> None:
        if self._drawn and self.in_place:
            self.stream.write("\n")
            self.stream.flush()
        self._drawn = False
        for handler in self._handlers:
            handler.removeFilter(self._erase_before_log)
        self._handlers = []


def _is_fitting(trainer: L.Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING


def _duration(seconds: float) -> datetime.timedelta:
    """Return a duration that prints as h:mm:ss."""
    return datetime.timedelta(seconds=round(seconds))
