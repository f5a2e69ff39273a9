"""What `ckpt_path` names: a run folder, its adapter folder or a .ckpt file; and the config that comes back with it."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save as dump_tensors

from rlora.adapters import checkpoint
from rlora.config.allowlist import check_saved_config
from rlora.io.safetensors import read_tensors
from rlora.regularizers.base import Regularizer
from rlora.training.module import CHECKPOINT_FORMAT

REGULARIZER = "regularizer.safetensors"  # in an adapter folder: a posterior and its prior
CONFIG = "config.yaml"
BROUGHT = (
    "model",
    "task",
    "adapter",
    "seed",
    "regularizer",
)  # what an evaluation takes from the saved config
RESUMED = (
    *BROUGHT,
    "optimizer",
    "scheduler",
    "trainer",
)  # what going on with a training takes besides
OF_THE_MACHINE = {
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "default_root_dir",
}  # stay as they are here


@dataclass(frozen=True)
class Saved:
    """A saved model.

    Args:
        path: As it was given.
        adapter: Its adapter folder, if it has one.
        checkpoint: Its Lightning checkpoint, if it has one.
        config: The resolved config it was trained with, with the groups' `choices`.
    """

    path: Path
    adapter: Path | None
    checkpoint: Path | None
    config: dict[str, Any]

    @property
    def run(self) -> Path:
        """The run's folder, of which a given adapter folder or checkpoint is a part."""
        if self.path.is_file():
            return self.path.parent.parent
        return self.path.parent if self.path == self.adapter else self.path


def find_saved(path: str, *, resume: bool) -> Saved:
    """Look at what lies under a path.

    Args:
        path: Run folder, adapter folder or .ckpt file.
        resume: Whether training goes on from it (then a run folder gives its last checkpoint) or it is evaluated (then
            its adapter folder, or the best checkpoint of a run that did not finish).

    Raises:
        ValueError: nothing loadable lies there.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return Saved(
            place, None, place, _checked(read_checkpoint(place)["rlora"].get("config"), place)
        )
    if (place / checkpoint.MANIFEST).is_file():
        card = checkpoint.read_manifest(place)
        return Saved(place, place, None, _checked(card.get("config"), place / checkpoint.MANIFEST))
    if not (place / CONFIG).is_file():
        raise ValueError(
            f"ckpt_path={path} is neither a run folder (with {CONFIG}), nor an adapter folder "
            f"(with {checkpoint.MANIFEST}), nor a .ckpt file"
        )
    config = _read_config(place / CONFIG)
    adapter, last = place / "adapter", place / "checkpoints" / "last.ckpt"
    best = place / "checkpoints" / "best.ckpt"
    if resume and last.is_file():
        return Saved(place, None, last, config)
    if not resume and (adapter / checkpoint.MANIFEST).is_file():
        return Saved(place, adapter, None, config)
    if not resume and best.is_file():
        return Saved(place, None, best, config)
    needed = "checkpoints/last.ckpt to go on from" if resume else "adapter folder and no checkpoint"
    raise ValueError(
        f"ckpt_path={path} holds no {needed}: that run stopped before its first epoch ended"
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return _checked(yaml.safe_load(path.read_text()), path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _checked(config: Any, path: Path) -> dict[str, Any]:
    return check_saved_config(config, str(path), RESUMED)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint of this project, refusing anything but tensors and plain values.

    Raises:
        ValueError: The file is damaged, of another project, or of another format.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged, cut short, or no checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("rlora"), dict):
        raise ValueError(f"{path} is a checkpoint, but not of this project")
    if (number := checkpoint["rlora"].get("format")) != CHECKPOINT_FORMAT:
        if number is None:
            raise ValueError(
                f"{path} was saved by rlora 0.1, which this version cannot load: train it again, or use rlora 0.1"
            )
        raise ValueError(
            f"{path} has checkpoint format {number}, this version reads format {CHECKPOINT_FORMAT}"
        )
    return checkpoint


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
        ValueError: the folder has no such file, a damaged one, or one of another model.
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


def bring(
    config: dict[str, Any],
    choices: dict[str, str],
    saved: Saved,
    words: Sequence[str],
    *,
    resume: bool,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Lay the saved sections under the words of the command line.

    A group named on the command line (`task=rte`) is taken as composed; single keys (`task.batch_size=8`) are laid over
    the saved section; everything else in these sections is as it was saved.

    Args:
        config: The composed config, plain.
        choices: Group to option, as composed.
        saved: What `ckpt_path` named.
        words: The overrides on the command line.
        resume: Whether training goes on, so that its settings come back too.

    Returns:
        The config to run and the choices to name it by.
    """
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    merged, named = dict(config), dict(choices)
    for section in RESUMED if resume else BROUGHT:
        if section not in saved.config or section in keys:
            continue
        merged[section] = _overlaid(section, config, saved.config[section], keys)
        if section in saved.config.get("choices", {}):
            named[section] = saved.config["choices"][section]
    return merged, named


def _overlaid(section: str, config: dict[str, Any], saved: Any, keys: Sequence[str]) -> Any:
    if not isinstance(saved, dict):
        return saved
    result = dict(saved)
    if section == "trainer":
        result = {key: value for key, value in result.items() if key not in OF_THE_MACHINE}
        result |= {key: value for key, value in config[section].items() if key in OF_THE_MACHINE}
    for key in keys:
        head, *path = key.split(".")
        if head == section and path:
            _set(result, path, _get(config[section], path))
    return result


def _get(tree: Any, path: Sequence[str]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _set(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        tree[part] = dict(tree.get(part) or {})
        tree = tree[part]
    tree[path[-1]] = value
