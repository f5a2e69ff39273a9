"""Data before it reaches a task: reading, splitting, tokenizing, sampling and collating."""
