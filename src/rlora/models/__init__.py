"""Backbones: pretrained transformers from the hub, a directory, a package, or at random."""
