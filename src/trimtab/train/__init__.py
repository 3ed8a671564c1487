"""Training: the models of `trimtab.models` with gradients, and the techniques that make a step fit."""
