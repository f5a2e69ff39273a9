"""Saved runs: what `ckpt_path` may name, their configs, checkpoints and regularizer states."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save as dump_tensors

from rlora.adapters import checkpoint
from rlora.config.allowlist import check_saved_config
from rlora.io.safetensors import read_tensors
from rlora.records.status import CONFIG, original_path
from rlora.regularizers.base import Regularizer
from rlora.training.checkpoints import CHECKPOINT_FORMAT

LAST_CHECKPOINT, BEST_CHECKPOINT = "checkpoints/last.ckpt", "checkpoints/best.ckpt"
REGULARIZER = "regularizer.safetensors"  # in an adapter folder: a posterior and its prior
# What reading a file raises that is no checkpoint: unpickling stumbles in many ways.
UNREADABLE = (
    *(RuntimeError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    pickle.UnpicklingError,
)
# The sections that an evaluation restores from the saved config, and those that resuming restores.
EVALUATION_SECTIONS = ("model", "task", "adapter", "seed", "regularizer")
TRAINING_SECTIONS = (*EVALUATION_SECTIONS, "optimizer", "scheduler", "trainer")


@dataclass(frozen=True)
class SavedRun:
    """A saved run, or the part of it that `ckpt_path` names.

    Args:
        path: The path itself.
        adapter: The adapter folder to load, if any.
        checkpoint: The Lightning checkpoint to load, if any.
        config: The resolved config it was trained with, with the groups' `choices`.
    """

    path: Path
    adapter: Path | None
    checkpoint: Path | None
    config: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The run folder, which contains the adapter folder or checkpoint."""
        if self.path.is_file():
            return self.path.parent.parent
        return self.path.parent if self.path == self.adapter else self.path


def find_saved(path: str, *, resume: bool, key: str = "ckpt_path") -> SavedRun:
    """Return the saved run at a path.

    Args:
        path: Run folder, adapter folder or .ckpt file.
        resume: Whether to resume its training or to evaluate it. Of a run folder, resuming loads
            the last checkpoint. An evaluation loads the adapter folder, or the best checkpoint of
            an unfinished run.
        key: The option that the path belongs to, for messages.

    Raises:
        ValueError: There is nothing to load, or rlora 0.1 saved it.
    """
    location = original_path(Path(path).expanduser(), key)
    if location.is_file():
        config = _checked(read_checkpoint(location)["rlora"].get("config"), location)
        return SavedRun(location, None, location, config)
    if (location / checkpoint.MANIFEST).is_file():
        manifest = checkpoint.read_manifest(location)
        config = _checked(manifest.get("config"), location / checkpoint.MANIFEST)
        return SavedRun(location, location, None, config)
    if not (location / CONFIG).is_file():
        raise ValueError(
            f"{key}={path} is invalid: expected a run folder (with {CONFIG}), an adapter folder "
            f"(with {checkpoint.MANIFEST}) or a .ckpt file"
        )
    return _find_in_run(location, resume=resume, label=f"{key}={path}")


def _find_in_run(location: Path, *, resume: bool, label: str) -> SavedRun:
    config = _read_config(location / CONFIG)
    adapter, last = location / "adapter", location / LAST_CHECKPOINT
    best = location / BEST_CHECKPOINT
    if resume and last.is_file():
        return SavedRun(location, None, last, config)
    if not resume and (adapter / checkpoint.MANIFEST).is_file():
        return SavedRun(location, adapter, None, config)
    if not resume and best.is_file():
        return SavedRun(location, None, best, config)
    missing = f"{LAST_CHECKPOINT} to resume from" if resume else "adapter folder and checkpoint"
    raise ValueError(
        f"{label} has no {missing}: that run stopped before the end of its first epoch"
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return _checked(yaml.safe_load(path.read_text()), path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _checked(config: Any, path: Path) -> dict[str, Any]:
    return check_saved_config(config, str(path), TRAINING_SECTIONS)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint of this project; unpickle only tensors and plain values.

    Raises:
        ValueError: The file is damaged, of another project, or of another format.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged, truncated, or no checkpoint: {reason}") from error
    if not isinstance(state, dict) or not isinstance(state.get("rlora"), dict):
        raise ValueError(f"{path} is not a checkpoint of this project")
    if (number := state["rlora"].get("format")) != CHECKPOINT_FORMAT:
        if number is None:
            raise ValueError(
                f"{path} was saved by rlora 0.1, which this version cannot load: "
                "train it again, or use rlora 0.1"
            )
        raise ValueError(
            f"{path} has checkpoint format {number}, this version reads format {CHECKPOINT_FORMAT}"
        )
    return state


def regularizer_files(regularizer: Regularizer) -> dict[str, bytes]:
    """Return the file that an adapter folder holds for a posterior, by name.

    Other regularizers do not affect evaluation: their state is part of checkpoints only.
    """
    if not regularizer.is_posterior:
        return {}
    state = {
        key: tensor.detach().cpu().contiguous() for key, tensor in regularizer.state_dict().items()
    }
    return {REGULARIZER: dump_tensors(state)}


def load_regularizer(regularizer: Regularizer, directory: Path) -> None:
    """Load a posterior and the facts of its prior from an adapter folder.

    Raises:
        ValueError: The folder has no such file, a damaged one, or one of another model.
    """
    if not regularizer.is_posterior:
        return
    path = directory / REGULARIZER
    if not path.is_file():
        raise ValueError(f"{path} does not exist: that run was trained without this regularizer")
    state = read_tensors(path)
    expected = {key: value.shape for key, value in regularizer.state_dict().items()}
    if {key: value.shape for key, value in state.items()} != expected:
        raise ValueError(f"{path} belongs to a model of other parameters or another regularizer")
    regularizer.load_state_dict(state)
    # required: a learned prior mistaken for the start values would void a certificate
    regularizer.prior_facts = checkpoint.read_manifest(directory)["prior_facts"]
