"""Services outside this package: Weights & Biases and the Hugging Face hub."""
