"""`trimtab serve`: the OpenAI-compatible server."""

from __future__ import annotations

import signal
import sys
from typing import Any

import typer

from trimtab.cli.models import complete_model
from trimtab.cli.options import takes
from trimtab.cli.text import Verb, size
from trimtab.server.settings import ServeSettings

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab serve                                  the default model on http://127.0.0.1:8000/v1
trimtab serve model.gguf --port 0              on a free port, which is printed
trimtab serve --memory 400MB                   a promise: weights and KV cache stay inside
trimtab serve ./qwen3-0.6b --name assistant    a Hugging Face folder, under another name
trimtab serve --config trimtab.toml            settings from a file; flags and TRIMTAB_… beat it
trimtab serve --print-config > trimtab.toml    a file to start from, with every setting
trimtab serve ocr.yaml                         a vision pipeline; POST pictures to /v1/ocr
trimtab keys create alice                      a key for everybody who may ask; then, for a network:
trimtab serve --host 0.0.0.0 --tls-cert chain.pem --tls-key key.pem

curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"messages": [{"role": "user", "content": "Hello"}]}'
"""


@app.command(cls=Verb, epilog=EXAMPLES)
@takes(ServeSettings, argument="model", complete=complete_model, file=True)
def serve(settings: ServeSettings) -> None:
    """Serve a model over an OpenAI-compatible HTTP API, or a vision pipeline described in YAML.

    Ctrl-C or SIGTERM stops new requests and lets running ones finish; a second one ends them.
    """
    if settings.model.endswith((".yaml", ".yml")):
        from trimtab.server.pipeline.launch import serve_pipeline

        ended_by = serve_pipeline(settings, _announce_pipeline)
    else:
        from trimtab.cli.progress import fetched
        from trimtab.server.launch import serve as run
        from trimtab.server.opening import open_served

        fetched(settings.model)
        ended_by = run(settings, open_served, _announce)
    if ended_by == signal.SIGINT:
        raise typer.Exit(130)


def _announce_pipeline(served: Any, url: str) -> None:
    stages = " > ".join(stage.title for stage in served.pipeline.spec.stages)
    print(f"trimtab serves {served.name} at {url}/v1 ({stages})", file=sys.stderr, flush=True)


def _announce(served: Any, url: str) -> None:
    memory = served.engine.runner.memory
    parts = ", ".join(f"{kind} {size(count)}" for kind, count in memory.items())
    print(f"trimtab serves {served.name} at {url}/v1 ({parts})", file=sys.stderr, flush=True)
