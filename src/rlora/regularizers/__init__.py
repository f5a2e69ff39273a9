"""What is added to, or put in the place of, the task's loss."""
