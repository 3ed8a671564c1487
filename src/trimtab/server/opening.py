"""From settings to a model that answers, under the names the API has for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trimtab.server.access.keys import default_path
from trimtab.server.console.inspector import Inspector, usual_mode
from trimtab.server.served import Served
from trimtab.server.settings import ModelSettings, ServeSettings

if TYPE_CHECKING:
    from trimtab.engine.objective import Objective
    from trimtab.engine.opening import Opened


def open_served(settings: ModelSettings, on_words_read: Callable[[], None] = lambda: None) -> Served:
    """Load the model and start its engine.

    Parameters
    ----------
    on_words_read : called when only weights are left to load, which takes no Python

    Raises
    ------
    DoesNotFit : the memory budget is too small; the hint names one that is not
    BadFile, Unsupported, UnknownName, Offline, UsageError : the model cannot be had or read
    """
    from trimtab.engine.opening import open_model

    inspector = inspector_of(settings) if isinstance(settings, ServeSettings) else None
    more: dict[str, Any] = {}
    prompts: dict[str, int] = {}
    if isinstance(settings, ServeSettings):
        more |= bounds_of(settings)
        more |= {"prefix_dir": settings.prefix_dir, "prefix_disk_bytes": settings.prefix_disk_bytes}
        prompts = {"max_prompts": settings.max_prompts}
    more["token_times"] = inspector is not None and inspector.mode != "off"
    opened = open_model(
        settings.model,
        memory=settings.memory_bytes,
        threads=settings.threads,
        pin=settings.pin,
        kv_type=settings.kv_type,
        format=settings.format,
        context=settings.context,
        device=settings.device,
        sharing=settings.sharing,
        drafting=settings.drafting,
        on_words_read=on_words_read,
        **more,
    )
    if isinstance(settings, ServeSettings) and (settings.slo_ttft_ms or settings.slo_tpot_ms):
        opened.engine.objective = objective_of(settings, opened)
    aliases = frozenset({settings.model, opened.name})
    return Served(
        settings.served_name,
        opened.engine,
        opened.tokenizer,
        opened.engine.context,
        aliases,
        plan=opened.plan,
        inspector=inspector,
        **prompts,
    )


def objective_of(settings: ServeSettings, opened: Opened) -> Objective:
    """The latency objective, with this machine's fit of the model.

    Raises
    ------
    NotMeasured : requests of this model were never timed here, or too long ago; says how
    """
    import math

    from trimtab.engine.objective import Objective
    from trimtab.machine.profile import Profile
    from trimtab.machine.requests.profile import find, model_identity

    threads = getattr(opened.engine.runner, "threads", None)
    held = {"threads": threads, "format": settings.format, "kv_type": settings.kv_type}
    model = find(Profile.load(), model_identity(opened.path), settings=held)
    ttft_s, tpot_s = (
        math.inf if limit is None else limit / 1e3 for limit in (settings.slo_ttft_ms, settings.slo_tpot_ms)
    )
    return Objective(model, ttft_s, tpot_s, opened.engine.settings.max_running)


def bounds_of(settings: ServeSettings) -> dict[str, Any]:
    """The engine's settings for how many may wait, and how often streams are written to."""
    return {
        "max_waiting": settings.max_queue,
        "max_waiting_each": settings.max_queue_per_key,
        "stream_gap_ms": settings.stream_gap_ms,
    }


def inspector_of(settings: ServeSettings) -> Inspector:
    """Remembers requests as the settings say, or as is usual for such a server."""
    keys = settings.api_key is not None or (settings.keys_file or default_path()).exists()
    return Inspector(settings.inspect or usual_mode(settings.host, keys), chosen=settings.inspect is not None)
