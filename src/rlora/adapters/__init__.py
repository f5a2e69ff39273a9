"""Few-parameter adapters for pretrained transformers; usable without Lightning and Hydra.

from rlora.adapters import inject, load, save
from rlora.adapters.lora import LoRA

adapters = inject(model, LoRA(rank=8, targets=["query", "value"]), head=["classifier.weight",
"classifier.bias"])
"""

from rlora.adapters.adapter_set import AdapterSet, ParameterReport
from rlora.adapters.base import Adapter
from rlora.adapters.checkpoint import load, save
from rlora.adapters.declared import DeclaredTensors, Site
from rlora.adapters.inject import inject
from rlora.adapters.method import LinearMethod, Method, RankedMethod

__all__ = [
    "Adapter",
    "AdapterSet",
    "DeclaredTensors",
    "LinearMethod",
    "Method",
    "ParameterReport",
    "RankedMethod",
    "Site",
    "inject",
    "load",
    "save",
]
