"""OpenTelemetry traces: one span for each request, with its wait, prefill and decode inside.

Spans are made when a call is over, out of the moments that the engine noted anyway, so a running request
costs nothing. Loaded only when the settings name where traces go; needs the extra `otel`.

References: W3C Trace Context; OpenTelemetry semantic conventions for HTTP and for generative AI.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from trimtab.server.watching.outcome import outcome_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from trimtab.server.call import Call
    from trimtab.server.watching.outcome import Outcome

_OPERATIONS = {
    "/v1/chat/completions": "chat", "/v1/responses": "chat", "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}  # fmt: skip
_PROVIDER = "trimtab"
CLOSE_S = 3.0


class Traces:
    """Makes a call's spans when it is over.

    Parameters
    ----------
    provider : whoever takes the spans; see `exporter`
    """

    def __init__(self, provider: TracerProvider) -> None:
        import trimtab

        self._provider = provider
        self._tracer = provider.get_tracer("trimtab.server", trimtab.__version__)

    def __call__(self, call: Call) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        operation = _OPERATIONS.get(call.route)
        if operation is None and not call.handles:
            return  # health, metrics and the like
        operation = operation or "text_completion"
        context = TraceContextTextMapPropagator().extract({"traceparent": call.traceparent})
        name = f"{operation} {call.model}" if call.model else f"{call.method} {call.route}".strip()
        found = outcome_of(call)
        span = self._tracer.start_span(
            name, context, SpanKind.SERVER, _attributes(call, found, operation), start_time=_ns(call.arrived)
        )
        for part, start, end in (
            ("queue", found.submitted_s, found.started_s),
            ("prefill", found.started_s, found.first_s),
            ("decode", found.first_s, found.engine_s),
        ):
            if start is not None and end is not None:
                self._inside(span, part, call.arrived + start, call.arrived + end)
        if call.status >= 500:
            span.set_attribute("error.type", str(call.status))
            span.set_status(Status(StatusCode.ERROR))
        span.end(_ns(call.ended))

    def close(self, patience_s: float = CLOSE_S) -> None:
        """Send what is left; a collector that is not there does not keep the server from ending."""
        last = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        last.start()
        last.join(patience_s)

    def _inside(self, parent: Any, name: str, start: float, end: float) -> None:
        from opentelemetry.trace import set_span_in_context

        span = self._tracer.start_span(name, set_span_in_context(parent), start_time=_ns(start))
        span.end(_ns(max(start, end)))


def exporter(endpoint: str) -> Traces:
    """Traces that go to a collector over HTTP.

    Parameters
    ----------
    endpoint : such as `http://127.0.0.1:4318`; headers and the like come from OTEL_… variables
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    url = endpoint if endpoint.rstrip("/").endswith("/v1/traces") else f"{endpoint.rstrip('/')}/v1/traces"
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "trimtab"}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    return Traces(provider)


def _attributes(call: Call, found: Outcome, operation: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": call.method,
        "http.route": call.route,
        "http.response.status_code": call.status,
        "client.address": call.client,
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDER,
        "trimtab.tenant": call.tenant.name,
    }
    if call.model:
        attributes |= {"gen_ai.request.model": call.model, "gen_ai.response.model": call.model}
    if call.handles:
        params = call.handles[0].sequence.params
        attributes |= {
            "gen_ai.response.id": call.id,
            "gen_ai.usage.input_tokens": found.prompt_tokens,
            "gen_ai.usage.output_tokens": found.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": found.cached_tokens,
        }
        if operation != "embeddings":
            attributes |= {
                "gen_ai.response.finish_reasons": list(found.finish_reasons),
                "gen_ai.request.choice.count": len(call.handles),
                "gen_ai.request.temperature": float(params.temperature),
                "gen_ai.request.top_p": float(params.top_p),
            }
            if params.max_tokens is not None:
                attributes["gen_ai.request.max_tokens"] = params.max_tokens
        if found.first_s is not None:
            attributes["trimtab.time_to_first_token"] = found.first_s
    return {name: value for name, value in attributes.items() if value != ""}


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
