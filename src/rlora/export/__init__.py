"""Trained adapters for other programs: merged, as PEFT's, and what goes beside them."""
