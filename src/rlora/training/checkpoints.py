"""The checkpoint of a run: what it holds, and whether it fits the model that loads it."""

from typing import Any

import lightning as L
from torch import Tensor

from rlora.adapters.declared import derived_tensors

CHECKPOINT_FORMAT = 2  # of the key "rlora"; rlora 0.1 wrote none


def saved_keys(module: L.LightningModule) -> set[str]:
    """Return the keys of a checkpoint: trainable, derived from W, and the regularizer's state.

    Tensors derived from W are saved, because another machine may derive different ones: the signs
    of an SVD are arbitrary.
    """
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    kept = trained | set(derived_tensors([("", module)]))
    return {key for key in module.state_dict() if key in kept or key.startswith("regularizer.")}


def check_compatible(saved: dict[str, Any], compatibility: dict[str, Any]) -> None:
    """Check that a checkpoint belongs to this backbone, adapter, random structure and task.

    Raises:
        ValueError: It belongs to another run.
    """
    different = [key for key in compatibility if saved.get(key) != compatibility[key]]
    if different:
        message = "; ".join(
            f"{key}: saved {saved.get(key)}, here {compatibility[key]}" for key in different
        )
        raise ValueError(
            f"the checkpoint belongs to another run and cannot be loaded ({message}); to start "
            "another task from an adapter, set ckpt_path to its adapter folder"
        )


def completed_state(state: dict[str, Tensor], module: L.LightningModule) -> dict[str, Tensor]:
    """Return the state of a checkpoint with the frozen tensors, so that loading is strict.

    Raises:
        ValueError: The state does not hold the trainable parameters of this model.
    """
    keys = saved_keys(module)
    if set(state) != keys:
        differing = sorted(set(state) ^ keys)[:3]
        raise ValueError(
            "the checkpoint does not hold the trainable parameters of this model: it differs "
            f"in {', '.join(differing)}"
        )
    current = module.state_dict()
    if wrong := [key for key in state if state[key].shape != current[key].shape]:
        key = wrong[0]
        raise ValueError(
            f"the checkpoint's {key} has shape {tuple(state[key].shape)}, "
            f"the model's {tuple(current[key].shape)}"
        )
    return {key: state.get(key, value) for key, value in current.items()}
