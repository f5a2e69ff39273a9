"""External services: Weights & Biases and the Hugging Face hub."""
