"""AdamW whose moments lie in a file: memory holds those of one parameter at a time.

AdamW: arXiv 1711.05101. The moments are mapped from the file, and the pages of a parameter leave this process
as soon as it has been changed; what the system's page cache keeps, it may drop whenever memory is short.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


class FileAdamW:
    """AdamW with offloaded moments.

    Parameters
    ----------
    path : of the file, made anew; twice the parameters' bytes
    lr, betas, eps, weight_decay : as in `torch.optim.AdamW`, whose results it has
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], path: Path, *, lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01,
    ) -> None:  # fmt: skip
        self.parameters = list(parameters)
        self.path, self.lr, self.betas, self.eps, self.weight_decay = path, lr, betas, eps, weight_decay
        counts = [_padded(p.numel()) for p in self.parameters]
        with path.open("wb") as file:
            file.truncate(2 * sum(counts) * 4)  # zeros
        self._moments = torch.from_file(str(path), shared=True, size=2 * sum(counts), dtype=torch.float32)
        self._places: list[tuple[Tensor, Tensor]] = []
        at = 0
        for parameter, count in zip(self.parameters, counts, strict=True):
            first, second = self._moments[at : at + count], self._moments[at + count : at + 2 * count]
            self._places.append((first[: parameter.numel()], second[: parameter.numel()]))
            at += 2 * count
        self._step = torch.tensor(0.0)

    @property
    def nbytes(self) -> int:
        """Of the moments, in the file."""
        return int(self._moments.nbytes)

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter that has a gradient."""
        count = self._step.clone()
        for parameter, (first, second) in zip(self.parameters, self._places, strict=True):
            if parameter.grad is None:
                continue
            step = count.clone()
            adamw(
                [parameter.view(-1)], [parameter.grad.view(-1)], [first], [second], [], [step], fused=True,
                amsgrad=False, beta1=self.betas[0], beta2=self.betas[1], lr=self.lr,
                weight_decay=self.weight_decay, eps=self.eps, maximize=False,
            )  # fmt: skip
            _leave(first)
            _leave(second)
        self._step += 1

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None


def _padded(count: int) -> int:
    """Numbers rounded up to whole pages, so that no page has two owners."""
    each = mmap.PAGESIZE // 4
    return -(-count // each) * each


def _leave(values: Tensor) -> None:
    """Take a mapped tensor's pages out of this process; the file keeps what they hold."""
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is not None and hasattr(mmap, "MADV_DONTNEED"):
        madvise(
            ctypes.c_void_p(values.data_ptr()),
            ctypes.c_size_t(_padded(values.numel()) * 4),
            mmap.MADV_DONTNEED,
        )
