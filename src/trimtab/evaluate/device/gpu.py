"""A GPU of this machine: as `Local`, with the GPU's own energy counter and temperature."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trimtab.errors import Unsupported
from trimtab.evaluate.device.local import Local
from trimtab.machine.power.meters import Nvml


class Gpu(Local):
    """`Local` that refuses to go on without NVML: modelled GPU energy would tell nothing."""

    on_gpu = True

    def prepare(self) -> None:
        super().prepare()
        if not isinstance(self._meter, Nvml):
            raise Unsupported(
                "no GPU with an energy counter was found through NVML",
                "install `nvidia-ml-py` and a driver, or plan `driver: local`",
            )

    def thermal(self) -> Sequence[tuple[float, float]]:
        if not isinstance(self._meter, Nvml):
            return ()
        now = time.monotonic()
        return [(now, max(self._meter.temperatures()))]
