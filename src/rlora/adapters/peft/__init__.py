"""Tuners of the installed PEFT: `adapter=peft`, and the directories that PEFT writes."""

from rlora.adapters.peft.adapter_set import PeftAdapterSet
from rlora.adapters.peft.method import Peft

__all__ = ["Peft", "PeftAdapterSet"]
