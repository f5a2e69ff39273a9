"""Names of run folders: a run that `ckpt_path` restores is named by its saved task and adapter.

Imported before torch, as Hydra creates the folder first.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rlora.records.status import CONFIG, original_path

MANIFEST = "adapter.json"
RESOLVER = "restored"


def register() -> None:
    """Register the resolver that conf/ calls as `${restored:task}`."""
    OmegaConf.register_new_resolver(RESOLVER, _resolve, replace=True)


def _resolve(key: str, *, _root_: DictConfig) -> Any:
    hydra = HydraConfig.get()
    composed = _root_.seed if key == "seed" else hydra.runtime.choices[key]
    return restored(key, composed, _root_.get("ckpt_path"), list(hydra.overrides.task))


def restored(key: str, composed: Any, ckpt_path: Any, overrides: Sequence[str]) -> Any:
    """Return the option of a group, or the seed, that a run with `ckpt_path` uses.

    `restore_sections` restores the saved one unless the command line names another.

    Args:
        key: Config group, or "seed".
        composed: Its option as composed.
        ckpt_path: What the run restores, or None.
        overrides: The `key=value` arguments of the command line.
    """
    names = [override.lstrip("+~").partition("=")[0] for override in overrides]
    if ckpt_path in (None, "None") or key in names:
        return composed
    try:
        saved = _saved_config(str(ckpt_path))
    except (OSError, ValueError, yaml.YAMLError):  # the run itself raises the error, in full
        return composed
    choices = saved.get("choices")
    value = saved.get(key) if key == "seed" else isinstance(choices, dict) and choices.get(key)
    # a damaged file must not name a folder
    valid = isinstance(value, int) if key == "seed" else isinstance(value, str) and "/" not in value
    return value if valid and value != "" else composed


@functools.cache  # several names of one run
def _saved_config(path: str) -> dict[str, Any]:
    """Return the config that a run folder, an adapter folder or a checkpoint was saved with."""
    location = original_path(Path(path).expanduser(), "ckpt_path")
    if location.is_file():
        location = location.parent.parent
    if (location / MANIFEST).is_file():
        config = json.loads((location / MANIFEST).read_text(encoding="utf-8"))["config"]
    else:
        config = yaml.safe_load((location / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{location} holds no config")
    return config
