"""The training loop: Lightning module, trainer, optimizers and callbacks."""
