"""How long a request takes: the model, its fit, what others assume (arXiv 2211.02648)."""
