"""Checkpoints that are written atomically, and callbacks whose state survives resuming."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from rlora.io.atomic import open_atomically


class BestCheckpoint(ModelCheckpoint):
    """Checkpoint of the best epoch so far; a run resumed in another folder copies it there.

    Lightning forgets the best score when the folder changes, and a worse, later epoch would then
    count as the best.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score and copy its checkpoint into this run's folder."""
        best = Path(state_dict.get("best_model_path") or "")
        if (
            self.dirpath is not None
            and state_dict.get("dirpath") != self.dirpath
            and best.is_file()
        ):
            with best.open("rb") as source, open_atomically(Path(self.dirpath) / best.name) as copy:
                shutil.copyfileobj(source, copy)
            state_dict = _moved(state_dict, str(state_dict["dirpath"]), str(self.dirpath))
        super().load_state_dict(state_dict)


class PatientStopping(EarlyStopping):
    """Early stopping that counts validated epochs, with the patience of the config.

    Lightning restores the patience of the checkpoint. An epoch without validation, such as one that
    `trainer.max_steps` ends, has no score: Lightning raises an error, or counts the previous score.
    """

    _validated = -1  # the epoch of the last validation

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the epoch."""
        self._validated = trainer.current_epoch
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the score of the epoch with the best one, if it has one."""
        if self._validated == trainer.current_epoch:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score and the epochs without improvement."""
        super().load_state_dict({**state_dict, "patience": self.patience})


def _moved(value: Any, old: str, new: str) -> Any:
    """Return the state with `new` in place of the folder `old` in every path."""
    if isinstance(value, dict):
        return {_moved(key, old, new): _moved(inner, old, new) for key, inner in value.items()}
    return value.replace(old, new, 1) if isinstance(value, str) and value.startswith(old) else value


class AtomicCheckpointIO(TorchCheckpointIO):
    """Atomic writing of checkpoints: after a kill or on a full disk the previous one is intact."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write the checkpoint to `path`, or leave the file that is there."""
        with open_atomically(Path(path)) as file:
            torch.save(checkpoint, file)
