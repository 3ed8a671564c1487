"""Training: the models of `trimtab.models` with gradients, and the techniques that make a step fit."""

import os

# torch's profiler prints a line at each start and end, whoever listens.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
