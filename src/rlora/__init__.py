"""Fine-tune pretrained transformers with few-parameter adapters and compare them fairly."""
