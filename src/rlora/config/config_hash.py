"""The config hash: runs with one hash have one resolved config, apart from presentation."""

import hashlib
import json
from typing import Any

from rlora.config.flatten import move_paths

# Sections that change no result.
PRESENTATION = ("paths", "logger", "print_config", "study", "skip_finished")
TRAINER_PRESENTATION = ("default_root_dir", "enable_progress_bar")
SAVED = ("format", "choices")  # what a saved config holds besides the composed one


def hashed_config(config: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return a resolved config without what changes no result: paths, loggers, the run's folder.

    Null keys are left out too, so that a new unused option does not change the hash of earlier
    runs.

    Args:
        config: Plain and resolved.
        folder: Folder of the run, as the config's paths name it.
    """
    kept = {key: value for key, value in config.items() if key not in PRESENTATION}
    if not kept.get("certify"):
        kept.pop("certificate", None)
    if "trainer" in kept:
        kept["trainer"] = {
            key: value for key, value in kept["trainer"].items() if key not in TRAINER_PRESENTATION
        }
    without: dict[str, Any] = move_paths(_without_null(kept), folder, ".")
    return without


def _without_null(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {key: _without_null(value) for key, value in config.items() if value is not None}


def config_hash(config: dict[str, Any], folder: str) -> str:
    """Return the SHA-256 (hex) of `hashed_config`; runs with one hash agree on the same machine.

    A saved config has the hash of the composed one, as the group choices do not count.
    """
    composed = {key: value for key, value in config.items() if key not in SAVED}
    text = json.dumps(hashed_config(composed, folder), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
