"""Atomic writes, and reading tensors from untrusted files."""
