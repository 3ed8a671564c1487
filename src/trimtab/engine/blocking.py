"""The table of blockings that belongs to this machine's profile, if there is one that may be used.

`trimtab measure gemm` writes it beside the profile, small enough to be read whenever a model is loaded. It
obeys the profile's rules: another machine's, an old or a noisy one is not used, and `refusal` says why.
"""

from __future__ import annotations

import json
from pathlib import Path

from trimtab.kernels.chooser import KernelChooser
from trimtab.machine import probe
from trimtab.machine.gemm.place import table_path
from trimtab.machine.profile import DAY_S, Section

MAX_AGE_S = 30 * DAY_S


def chooser(kernels: str, threads: int, path: Path | None = None) -> KernelChooser:
    """What to ask for blockings; one that leaves all to the kernels where there is no table to go by."""
    place = path or table_path()
    try:
        if refusal(place):
            return KernelChooser()
        return KernelChooser.load(place, kernels, threads)
    except (OSError, ValueError, RecursionError):
        return KernelChooser()


def refusal(path: Path | None = None) -> str:
    """Why the table may not be used; empty when it may."""
    place = path or table_path()
    if not place.exists():
        return "there is none; `trimtab measure gemm` makes it"
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        section = Section({}, **content["section"])
        if content["processor"] != probe.describe().processor:
            return f"it is another machine's: {content['processor']}"
        if section.age_s > MAX_AGE_S:
            return f"it is {section.age_s / DAY_S:.0f} days old"
        if section.noisy:
            seen = f"{section.others:.0%} other work, {section.steal:.0%} stolen"
            return f"it was measured on a busy machine: {seen}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"it cannot be read: {error!r}"
    return ""
