"""Tasks: what a run learns and how it is scored."""
