"""After training: generated texts, certificates and predictions."""
