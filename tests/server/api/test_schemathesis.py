"""Every address as /openapi.json describes it, under thousands of requests drawn from that description.

Half of the requests are as it allows and half are not. Whatever comes: no 5xx, no status and no content type
that the document does not name, and every answer as its schema says.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.generation import GenerationMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "end_to_end"))
from real_server import RealServer

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip


MODEL = "smollm2"


@pytest.fixture(scope="module")
def server(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    state = tmp_path_factory.mktemp("state")
    options = ["--name", MODEL, "--context", "64", "--state-dir", str(state)]
    with RealServer(str(default_model), *options) as server:
        yield server
        code, said = server.end()
        assert code == 0
        assert "Traceback" not in said, said[-3000:]


def attack(server: RealServer, cases: int) -> Counter[tuple[str, int]]:
    """Send at least so many requests, evenly over operations and modes; answers by operation and status."""
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    each = math.ceil(cases / len(operations) / 2)
    seen: Counter[tuple[str, int]] = Counter()
    with requests.Session() as session:
        while seen.total() < cases:  # some operations have too little to vary for their share
            for operation in operations:
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    attack_one(operation, mode, each, session, seen)
    return seen


def attack_one(
    operation: Any,
    mode: GenerationMode,
    cases: int,
    session: requests.Session,
    seen: Counter[tuple[str, int]],
) -> None:
    """Send requests to one operation until there are enough, or no more different ones."""
    begun, fewest = seen.total(), 0
    needed = _required(operation)

    @settings(
        max_examples=cases, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode), chance=st.randoms(use_true_random=False))
    def check(case: Any, chance: Random) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            # Few of the many optional fields at a time: else one that is refused hides all others. And the
            # model is the one that is served.
            case.body = {
                name: value
                for name, value in case.body.items()
                if name in needed or (name != "model" and chance.random() < 0.2)
            }
            if "model" in needed:
                case.body["model"] = MODEL
        answer = case.call(session=session, timeout=120)
        seen[operation.label, answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    # An address with little to vary gives few different requests; it is asked again and again.
    while seen.total() - begun < cases and fewest < 200:
        before = seen.total()
        try:
            check()
        except Unsatisfiable:  # nothing to get wrong here
            return
        fewest += 1
        if seen.total() == before:
            return


def _required(operation: Any) -> frozenset[str]:
    """Fields that a request's body must have."""
    document = operation.schema.raw_schema
    content = operation.definition.raw.get("requestBody", {}).get("content", {})
    needed: set[str] = set()
    for media in content.values():
        schema = media["schema"]
        while "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        needed |= set(schema.get("required", ()))
    return frozenset(needed)


def _tell(seen: Counter[tuple[str, int]], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        statuses: Counter[int] = Counter()
        for (_, status), count in seen.items():
            statuses[status] += count
        print(f"\n{seen.total()} requests to {len({name for name, _ in seen})} operations: {dict(statuses)}")


@pytest.mark.timeout(280)
def test_a_few_hundred_requests(server: RealServer, capsys: pytest.CaptureFixture[str]) -> None:
    seen = attack(server, 300)
    _tell(seen, capsys)


@pytest.mark.slow
@pytest.mark.timeout(3_000)
def test_five_thousand_requests(server: RealServer, capsys: pytest.CaptureFixture[str]) -> None:
    seen = attack(server, 5_000)
    _tell(seen, capsys)
    assert seen.total() >= 5_000
    answered = {name for name, status in seen if status < 300}
    asked = {name for name, _ in seen}
    # Some addresses need an id that only another one gives.
    assert len(answered) >= len(asked) / 2, asked - answered
