"""Metrics that Prometheus can read and that add up, logs without secrets, traces with parts in order."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from serving_fakes import make_served
from starlette.testclient import TestClient

from trimtab.server.access.keys import Keys, Tenant
from trimtab.server.app import create_app
from trimtab.server.call import Call
from trimtab.server.operations import Operations
from trimtab.server.served import Loading
from trimtab.server.watching import metrics as metrics_module
from trimtab.server.watching.metrics import MOST_TENANTS, Metrics
from trimtab.server.watching.prometheus import Page, number
from trimtab.server.watching.traces import Traces

SECRET = "the-prompt-nobody-may-read"
ASK: dict[str, Any] = {"prompt": SECRET, "max_tokens": 8, "temperature": 0, "seed": 1}


def families(text: str) -> dict[str, Any]:
    """Every family by its name; a name that comes twice would be refused by Prometheus."""
    found = list(text_string_to_metric_families(text))
    assert len({family.name for family in found}) == len(found)
    return {family.name: family for family in found}


def value(text: str, name: str, **labels: str) -> float:
    (sample,) = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return float(sample.value)


# --- the format ---------------------------------------------------------------------------------------------

TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
)


@given(TEXT, TEXT, st.floats(allow_nan=False), st.lists(st.integers(0, 100), min_size=3, max_size=3))
def test_lines_are_read_back_as_they_were_meant(
    help_text: str, label: str, amount: float, counts: list[int]
) -> None:
    page = Page(("x:",), {"common": label})
    page.counter("c", help_text, abs(amount), {"own": label})
    page.gauge("g", help_text, amount)
    buckets = [(0.5, counts[0]), (1.0, sum(counts[:2])), (math.inf, sum(counts))]
    page.histogram("h", "spread", buckets, sum(counts), amount)
    read = families(page.text())
    assert read["x:c"].type == "counter"
    (counted,) = read["x:c"].samples
    assert counted.name == "x:c_total"
    assert counted.labels == {"common": label, "own": label}
    assert counted.value == abs(amount)
    assert read["x:g"].samples[0].value == amount
    assert read["x:h"].type == "histogram"
    assert [s.labels.get("le") for s in read["x:h"].samples][:3] == ["0.5", "1", "+Inf"]
    assert read["x:h"].samples[-2].value == sum(counts)
    assert read["x:h"].samples[-1].value == amount


def test_it_is_what_the_client_library_writes() -> None:
    """The same figures by the reference implementation, but for `_created` lines and how floats look."""
    registry = CollectorRegistry()
    Counter("c", "A counter.", ["a"], registry=registry).labels('x\\y"z\n').inc(3)
    Gauge("g", "A gauge.", registry=registry).set(0.25)
    histogram = Histogram("h", "Spread.", buckets=(0.5, 1), registry=registry)
    for seconds in (0.1, 0.7, 5):
        histogram.observe(seconds)
    page = Page(("",), {})
    page.counter("c", "A counter.", 3, {"a": 'x\\y"z\n'})
    page.gauge("g", "A gauge.", 0.25)
    page.histogram("h", "Spread.", [(0.5, 1), (1, 2), (math.inf, 3)], 3, 5.8)
    theirs = re.sub(r"(# (HELP|TYPE) )?\w+_created.*\n", "", generate_latest(registry).decode())
    assert re.sub(r"\.0\b", "", theirs) == page.text()


@pytest.mark.parametrize(
    ("given", "text"), [(3, "3"), (0.1, "0.1"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (1e300, "1e+300")]
)
def test_numbers(given: float, text: str) -> None:
    assert number(given) == text


# --- metrics ------------------------------------------------------------------------------------------------


def test_figures_add_up(start: Callable[..., Any]) -> None:
    server = start()
    post = lambda body: httpx.post(f"{server.url}/v1/completions", json=body, timeout=30)  # noqa: E731
    for _ in range(3):
        assert post(ASK).status_code == 200
    stream = httpx.post(f"{server.url}/v1/completions", json=ASK | {"stream": True, "n": 2}, timeout=30)
    assert stream.status_code == 200
    assert post({"prompt": 5}).status_code == 400
    httpx.get(f"{server.url}/v1/models/speller")
    httpx.get(f"{server.url}/v1/models/other")
    httpx.get(f"{server.url}/no/such/{SECRET}")
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text, length = answer.text, len(SECRET)
    read = families(text)
    assert SECRET not in text
    for prefix in ("vllm:", "trimtab:"):
        assert value(text, f"{prefix}generation_tokens_total") == 5 * 8
        # Two choices share one prompt, which is computed once.
        assert value(text, f"{prefix}prompt_tokens_total") == 5 * length
        assert value(text, f"{prefix}prefix_cache_queries_total") == 5 * length
        assert value(text, f"{prefix}prefix_cache_hits_total") == 4 * 16
        assert value(text, f"{prefix}request_success_total", finished_reason="length") == 5
        assert value(text, f"{prefix}num_requests_running") == 0
        assert value(text, f"{prefix}num_requests_waiting") == 0
        assert value(text, f"{prefix}kv_cache_usage_perc") == 0
        assert value(text, f"{prefix}num_preemptions_total") == 0
        assert value(text, f"{prefix}time_to_first_token_seconds_count") == 5
        assert value(text, f"{prefix}inter_token_latency_seconds_count") == 5
        for name in ("e2e_request_latency", "request_queue_time", "request_prefill_time",
                     "request_decode_time", "request_time_per_output_token"):  # fmt: skip
            assert value(text, f"{prefix}{name}_seconds_count") == 4, name
            assert read[f"{prefix}{name}_seconds"].type == "histogram"
        assert value(text, f"{prefix}request_generation_tokens_sum") == 40
        assert value(text, f"{prefix}request_prompt_tokens_sum") == 4 * length
    counts = {
        (s.labels["method"], s.labels["path"], s.labels["status"]): s.value
        for s in read["trimtab:http_requests"].samples
    }
    assert counts["POST", "/v1/completions", "200"] == 4
    assert counts["POST", "/v1/completions", "400"] == 1
    assert counts["GET", "/v1/models/{name}", "200"] == 1
    assert counts["GET", "/v1/models/{name}", "404"] == 1
    assert counts["GET", "other", "404"] == 1
    assert value(text, "trimtab:tenant_generation_tokens_total", tenant="") == 40
    assert value(text, "process_resident_memory_bytes") > 1e7
    assert value(text, "process_open_fds") > 3
    assert abs(value(text, "process_start_time_seconds") - time.time()) < 300


def test_metrics_while_the_model_loads() -> None:
    with TestClient(create_app(Loading())) as client:
        read = families(client.get("/metrics").text)
        assert "trimtab:draining" in read
        assert "vllm:num_requests_running" not in read
        assert client.get("/health").json() == {"status": "loading"}


def test_tenants_and_paths_are_bounded() -> None:
    metrics = Metrics()
    for place in range(3 * MOST_TENANTS):
        metrics(Call(Tenant(f"t{place}", ""), method="GET", route=f"/r{place}", status=200))
    assert len(metrics.by_tenant) <= MOST_TENANTS + 1
    assert metrics.by_tenant["other"]["requests"] == 2 * MOST_TENANTS
    assert len(metrics.http) <= metrics_module.MOST_PATHS + 1
    assert metrics.http["GET", "other", 200] == 3 * MOST_TENANTS - metrics_module.MOST_PATHS


# --- logs ---------------------------------------------------------------------------------------------------


def lines(server: Any) -> list[str]:
    code, said = server.end()
    assert code in (0, 15)
    return [line for line in said.splitlines() if line]


def test_a_json_line_for_each_request(start: Callable[..., Any]) -> None:
    server = start("--step-ms", "2", "log_level=info", "log_format=json", "api_key=correct-horse-battery")
    headers = {"authorization": "Bearer correct-horse-battery"}
    answer = httpx.post(f"{server.url}/v1/completions", json=ASK | {"n": 2}, headers=headers)
    httpx.post(f"{server.url}/v1/completions", json=ASK, headers={"authorization": f"Bearer {SECRET}"})
    httpx.get(f"{server.url}/v1/models/a%0Ab%22", headers=headers)
    httpx.get(f"{server.url}/health")
    told = [json.loads(line) for line in lines(server)]
    assert SECRET not in json.dumps(told)
    assert "correct-horse-battery" not in json.dumps(told)
    requests = [line for line in told if line["logger"] == "trimtab.access"]
    first, refused, missing = requests
    assert first["request_id"] == answer.json()["id"]
    assert first["tenant"] == "api-key"
    assert (first["method"], first["path"], first["status"]) == ("POST", "/v1/completions", 200)
    assert (first["model"], first["prompt_tokens"], first["output_tokens"]) == ("speller", len(SECRET), 16)
    assert first["finish_reason"] == "length"
    assert 0 <= first["queue_ms"] <= first["ttft_ms"] <= first["duration_ms"] < 30_000
    assert 1 < first["tpot_ms"] < 1000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert refused["status"] == 401
    assert "prompt_tokens" not in refused
    assert missing["path"] == '/v1/models/a\nb"'


def test_a_text_line_stays_one_line(start: Callable[..., Any]) -> None:
    server = start("log_level=info")
    httpx.get(f"{server.url}/v1/models/a%0AINFO%20trimtab.access:%20forged")
    httpx.post(f"{server.url}/v1/completions", json=ASK)
    said = lines(server)
    assert len(said) == 2
    assert said[0].startswith('INFO trimtab.access: GET "/v1/models/a\\nINFO trimtab.access: forged" 404 ')
    assert re.search(r" POST /v1/completions 200 .*prompt_tokens=26 .*finish_reason=length$", said[1])
    assert SECRET not in said[1]


def test_prompts_only_when_asked_for(start: Callable[..., Any]) -> None:
    server = start("log_level=info", "log_format=json", "log_prompts=true")
    text = httpx.post(f"{server.url}/v1/completions", json=ASK).json()["choices"][0]["text"]
    (told,) = [json.loads(line) for line in lines(server)]
    assert (told["prompts"], told["outputs"]) == ([SECRET], [text])


def test_nothing_is_said_of_requests_by_default(start: Callable[..., Any]) -> None:
    server = start()
    httpx.post(f"{server.url}/v1/completions", json=ASK)
    assert lines(server) == []


# --- traces -------------------------------------------------------------------------------------------------


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced(spans: InMemorySpanExporter, tmp_path: Path) -> Any:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    operations = Operations(Keys(tmp_path / "none.json"), listeners=[Traces(provider)])
    served = make_served()
    with TestClient(create_app(Loading.done(served), operations=operations)) as client:
        yield client
    served.engine.close()


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_request_is_a_span_with_its_parts(traced: Any, spans: InMemorySpanExporter) -> None:
    body = ASK | {"temperature": 0.5, "top_p": 0.9}
    answer = traced.post("/v1/completions", json=body, headers={"traceparent": PARENT}).json()
    by_name = {span.name: span for span in spans.get_finished_spans()}
    assert set(by_name) == {"text_completion speller", "queue", "prefill", "decode"}
    whole = by_name["text_completion speller"]
    assert whole.parent is not None
    assert f"{whole.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{whole.parent.span_id:016x}" == PARENT.split("-")[2]
    assert whole.kind.name == "SERVER"
    told = dict(whole.attributes or {})
    assert told["gen_ai.operation.name"] == "text_completion"
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "speller"
    assert told["gen_ai.response.id"] == answer["id"]
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (len(SECRET), 8)
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    assert (told["gen_ai.request.max_tokens"], told["gen_ai.request.temperature"]) == (8, 0.5)
    assert told["http.response.status_code"] == 200
    assert told["http.route"] == "/v1/completions"
    assert SECRET not in str(told)
    parts = [by_name[name] for name in ("queue", "prefill", "decode")]
    for part in parts:
        assert part.parent is not None
        assert part.parent.span_id == whole.context.span_id
        assert whole.start_time <= part.start_time <= part.end_time
    assert parts[0].end_time == parts[1].start_time
    assert parts[1].end_time == parts[2].start_time
    assert parts[2].end_time <= whole.end_time + 2_000_000  # two clocks, read a moment apart


def test_kinds_of_spans(traced: Any, spans: InMemorySpanExporter) -> None:
    traced.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    )
    traced.post("/v1/embeddings", json={"input": "x"})
    traced.post("/v1/completions", json={"prompt": [10**6]})
    for path in ("/health", "/metrics", "/v1/models", "/nothing"):
        traced.get(path)
    whole = [span for span in spans.get_finished_spans() if span.kind.name == "SERVER"]
    names = [span.name for span in whole]
    assert names[:2] == ["chat speller", "embeddings speller"]
    assert len(names) == 3
    assert dict(whole[2].attributes or {})["http.response.status_code"] == 400


@pytest.mark.parametrize("header", ["", "nonsense", "00-0-0-00", "é"])
def test_a_header_that_is_none_starts_a_new_trace(
    traced: Any, spans: InMemorySpanExporter, header: str
) -> None:
    traced.post("/v1/completions", json=ASK, headers={"traceparent": header.encode()})
    whole = [span for span in spans.get_finished_spans() if span.kind.name == "SERVER"]
    assert [span.parent for span in whole] == [None]


def test_a_collector_that_is_not_there_keeps_nobody_waiting(start: Callable[..., Any]) -> None:
    server = start("otlp_endpoint=http://127.0.0.1:9")
    assert httpx.post(f"{server.url}/v1/completions", json=ASK).status_code == 200
    began = time.monotonic()
    server.end()
    assert time.monotonic() - began < 8


def test_traces_reach_a_collector(start: Callable[..., Any]) -> None:
    import http.server
    import threading

    got: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    collector = http.server.HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    try:
        server = start(f"otlp_endpoint=http://127.0.0.1:{collector.server_port}")
        httpx.post(f"{server.url}/v1/completions", json=ASK)
        server.end()
    finally:
        collector.shutdown()
        collector.server_close()
    assert [path for path, _ in got] == ["/v1/traces"]
    assert SECRET.encode() not in got[0][1]
