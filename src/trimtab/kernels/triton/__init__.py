"""Triton kernels behind the operation names, for GPUs. Importing this package imports torch and Triton.

With `TRITON_INTERPRET=1` set before the import they run on a CPU, slowly, which is how the tests compare them
with the references where there is no GPU.
"""

from __future__ import annotations

from trimtab.kernels.triton.ops import TritonOps

__all__ = ["TritonOps"]
