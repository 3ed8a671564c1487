"""The device lab: whole conversations on a device or under a device's limits, timed by event.

The method is MELT's (arXiv 2403.12844): a coordinator starts an engine, holds the same conversations with it
in the same order, records events, memory and power on one clock, and pulls the logs. A device is a driver; a
new one is one file and one line in `DRIVERS`.
"""

from __future__ import annotations

DRIVERS = {
    "local": "trimtab.evaluate.device.local:Local",
    "cgroup": "trimtab.evaluate.device.limited:Limited",
    "gpu": "trimtab.evaluate.device.gpu:Gpu",
    "replay": "trimtab.evaluate.device.replay:Replay",
}
"""Driver name -> "module:Class", imported when a plan asks for it."""
