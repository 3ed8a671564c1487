"""Drives trimtab with another native module: the same kernels, built on another executor or unrecorded.

The first argument is the module's file. It takes the place of the installed one before anything asks for it.
"""

from __future__ import annotations

import importlib.util
import sys


def use(path: str) -> None:
    """Make the module at `path` the one that `from trimtab import _native` finds."""
    import trimtab

    spec = importlib.util.spec_from_file_location("trimtab._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["trimtab._native"] = module
    spec.loader.exec_module(module)
    trimtab._native = module  # type: ignore[attr-defined]


if __name__ == "__main__":
    use(sys.argv[1])
    from protocol import serve
    from trimtab_peer import Trimtab

    serve(Trimtab())
