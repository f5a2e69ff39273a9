"""Regularizers: what a training step adds to, or minimizes instead of, the task loss."""
