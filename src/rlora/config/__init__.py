"""From a composed config to objects: building, hashing, flattening, and checks of saved configs."""
