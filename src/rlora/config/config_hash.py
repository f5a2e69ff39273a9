"""What makes two runs the same: their resolved config, but for where they write and how they tell of it."""

import hashlib
import json
from typing import Any

from rlora.config.flatten import move_paths

PRESENTATION = (
    "paths",
    "logger",
    "print_config",
    "study",
    "skip_finished",
)  # sections that change no result
TRAINER_PRESENTATION = ("default_root_dir", "enable_progress_bar")


def hashed_config(config: dict[str, Any], folder: str) -> dict[str, Any]:
    """A resolved config without what changes no result: paths, loggers and the run's own folder.

    Keys that are null are left out too: a new option that is not used leaves the identities of earlier runs alone.

    Args:
        config: Plain and resolved.
        folder: Of the run, as the config's paths name it.
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
    """SHA-256 (hex) of what changes results: runs of one hash agree on the same machine."""
    return hashlib.sha256(
        json.dumps(hashed_config(config, folder), sort_keys=True).encode()
    ).hexdigest()
