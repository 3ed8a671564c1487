"""From settings to a model that answers. Everything heavy is imported here, when it is needed."""

from __future__ import annotations

from pathlib import Path

from trimtab.server.served import Served
from trimtab.server.settings import ModelSettings, ServeSettings


def open_served(settings: ModelSettings) -> Served:
    """Load the model and start its engine."""
    from trimtab.engine.engine import Engine, EngineSettings
    from trimtab.engine.runner import NativeRunner
    from trimtab.formats.source import open_source
    from trimtab.models.config import config_from
    from trimtab.models.tokenizer import load_tokenizer

    source = open_source(Path(settings.model))
    config = config_from(source)
    tokenizer = load_tokenizer(source)
    context = settings.context or config.context
    runner = NativeRunner.open(
        source, config, num_pages=4 * context // 16, max_rows=512, max_wanted=64, context=context,
        threads=settings.threads, kv_type=settings.kv_type, format=settings.format,
    )
    engine = Engine(runner, tokenizer, EngineSettings(context=context))
    name = settings.served_name if isinstance(settings, ServeSettings) else config.name
    return Served(name, engine, tokenizer, engine.context, frozenset({settings.model}))
