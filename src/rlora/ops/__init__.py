"""Pure functions on tensors: portable random structure and the Walsh-Hadamard transform."""
