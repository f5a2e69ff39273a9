"""From a composed config to objects: building, hashing, flattening, and what saved configs may name."""
