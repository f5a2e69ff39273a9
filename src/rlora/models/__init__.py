"""Backbones: pretrained transformers from the hub, a folder or a package, and random ones."""
