"""Which files lie beside the machine profile; kept apart so that reading a path loads nothing else."""

from __future__ import annotations

from pathlib import Path

from trimtab.machine.profile import default_path


def table_path(profile: Path | None = None) -> Path:
    """The table of blockings that loading a model reads."""
    return (profile or default_path()).with_suffix(".blocking.json")


def session_path(profile: Path | None = None) -> Path:
    """The timings of a session that was broken off."""
    return (profile or default_path()).with_suffix(".gemm-session.jsonl")
