"""Checkpoints that survive a kill, and the best epoch also across a resumption."""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from rlora.io.atomic import open_atomically


class BestCheckpoint(ModelCheckpoint):
    """Keep the best epoch so far; a run resumed in another folder brings its best epoch along.

    Lightning forgets the best score when the folder changes, and would then call a worse, later epoch the best.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the earlier best and copy its file into this run's folder."""
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


def _moved(value: Any, old: str, new: str) -> Any:
    """The state with every path below `old` put below `new`."""
    if isinstance(value, dict):
        return {_moved(key, old, new): _moved(inner, old, new) for key, inner in value.items()}
    return value.replace(old, new, 1) if isinstance(value, str) and value.startswith(old) else value


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and move it there whole: a kill or a full disk leaves the previous one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save to `path`, or leave what was there."""
        with open_atomically(Path(path)) as file:
            torch.save(checkpoint, file)
