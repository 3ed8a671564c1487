"""Training: the models of `trimtab.models` with gradients, and the techniques that make a step fit."""

import os

# torch's profiler prints a line at each start and end, whoever listens.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
# A step takes and gives back gigabytes. In pages of 4 KiB the system's part of that is a tenth of its time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
