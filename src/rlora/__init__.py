"""Fine-tune pretrained transformers with few-parameter adapters and compare them fairly.

    from rlora import RLoRA, inject

    adapters = inject(model, RLoRA(rank=8, targets=["query", "value"]))

The names below are imported when they are first used, so that `rlora.reports` starts without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlora.adapters import (
        Adapter,
        AdapterSet,
        DeclaredTensors,
        LinearMethod,
        Method,
        ParameterReport,
        RankedMethod,
        Site,
        inject,
        load,
        save,
    )
    from rlora.adapters.bitfit import BitFit
    from rlora.adapters.dora import DoRA
    from rlora.adapters.fourierft import FourierFT
    from rlora.adapters.full import Full
    from rlora.adapters.head import Head
    from rlora.adapters.lora import LoRA
    from rlora.adapters.lora_xs import LoRAXS
    from rlora.adapters.multi_adapter import MultiAdapterModel
    from rlora.adapters.nola import NOLA
    from rlora.adapters.peft import Peft
    from rlora.adapters.randlora import RandLoRA
    from rlora.adapters.rlora import RLoRA
    from rlora.adapters.vera import VeRA

# public name -> the module that defines it; tests/test_public_api.py compares it with the imports
# above
_MODULES = {
    "Adapter": "rlora.adapters",
    "AdapterSet": "rlora.adapters",
    "BitFit": "rlora.adapters.bitfit",
    "DeclaredTensors": "rlora.adapters",
    "DoRA": "rlora.adapters.dora",
    "FourierFT": "rlora.adapters.fourierft",
    "Full": "rlora.adapters.full",
    "Head": "rlora.adapters.head",
    "LinearMethod": "rlora.adapters",
    "LoRA": "rlora.adapters.lora",
    "LoRAXS": "rlora.adapters.lora_xs",
    "Method": "rlora.adapters",
    "MultiAdapterModel": "rlora.adapters.multi_adapter",
    "NOLA": "rlora.adapters.nola",
    "ParameterReport": "rlora.adapters",
    "Peft": "rlora.adapters.peft",
    "RLoRA": "rlora.adapters.rlora",
    "RandLoRA": "rlora.adapters.randlora",
    "RankedMethod": "rlora.adapters",
    "Site": "rlora.adapters",
    "VeRA": "rlora.adapters.vera",
    "inject": "rlora.adapters",
    "load": "rlora.adapters",
    "save": "rlora.adapters",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rlora' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
