"""Data: reading, splitting, tokenizing, sampling and collating."""
