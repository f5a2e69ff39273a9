"""Exports of trained runs: PEFT adapters and merged transformers models, with model cards."""
