"""Energy: where it can be read, and the model that stands in where it cannot."""
