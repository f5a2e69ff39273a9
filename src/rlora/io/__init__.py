"""Writing files whole, and reading tensors from files that may come from anywhere."""
