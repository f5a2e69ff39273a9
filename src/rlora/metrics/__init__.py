"""Scores of generated text as pure functions: no model, no trainer, no torch."""
