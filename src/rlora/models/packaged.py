"""Load a pretrained transformer from an installed Python package."""

import importlib.util
from pathlib import Path
from typing import Unpack

from rlora.models.backbone import Backbone
from rlora.models.pretrained import LoadOptions, load_pretrained


def load_packaged(name: str, *, folder: str = "model", **options: Unpack[LoadOptions]) -> Backbone:
    """Load a backbone from an installed package.

    Args:
        name: Import name of the package.
        folder: Folder of the model inside the package.
        **options: See `LoadOptions`.

    Raises:
        ValueError: the package is not installed, or the model cannot be loaded.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"the package {name} is not installed: pip install {name.replace('_', '-')}"
        )
    backbone = load_pretrained(str(Path(spec.origin).parent / folder), **options)
    backbone.source = f"package {name}"
    return backbone
