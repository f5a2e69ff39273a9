"""The progress bar."""

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar


class Progress(TQDMProgressBar):
    """Show the loss, and read it from the device only where the bar is drawn anew.

    What is logged for Lightning's own bars is read at every step, which then waits for the device.
    """

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict]:
        """What stands beside the bar: the loss of the last batch, and what was logged for it."""
        loss = trainer.callback_metrics.get("train/loss_step")
        shown = {} if loss is None else {"loss": f"{float(loss):.3f}"}
        return {**shown, **super().get_metrics(trainer, pl_module)}
