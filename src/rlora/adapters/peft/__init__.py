"""Tuners of the installed PEFT: `adapter=peft`, and the directories that PEFT writes."""

from rlora.adapters.peft.method import Peft, PeftSet

__all__ = ["Peft", "PeftSet"]
