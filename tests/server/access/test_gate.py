"""Who gets in, and how much they get: a real server process, the official client, plain HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from trimtab.server.access.keyfile import KeyFile, TenantRecord, change, new_key, new_salt

ASK: dict[str, Any] = {
    "model": "speller",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 4,
}
LONG = ASK | {"max_tokens": 300, "extra_body": {"ignore_eos": True}}


class Guarded:
    """A server with a file of keys."""

    def __init__(self, start: Callable[..., Any], path: Path, *arguments: str) -> None:
        self.path = path
        self.admin = self.add("ops", admin=True)
        self.server = start(*arguments, f"keys_file={path}")
        self.url = self.server.url
        self.clients: list[openai.OpenAI] = []

    def add(self, name: str, **fields: Any) -> str:
        """A key for a new tenant, or one with new limits."""
        key, kept = new_key(int(time.time()), fields.pop("expires", None))
        made = TenantRecord(name=name, salt=new_salt(), keys=(kept,), **fields)
        change(self.path, lambda content: content.replaced(made))
        return key

    def client(self, key: str) -> openai.OpenAI:
        made = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)
        self.clients.append(made)
        return made

    def until_known(self, key: str) -> openai.OpenAI:
        """A client, once the server has noticed the key."""
        client = self.client(key)
        for _ in range(60):
            try:
                client.models.list()
                return client
            except openai.AuthenticationError:
                time.sleep(0.1)
        raise TimeoutError


@pytest.fixture
def guarded(start: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Guarded]]:
    made: list[Guarded] = []

    def one(*arguments: str) -> Guarded:
        made.append(Guarded(start, tmp_path / "keys.json", *arguments))
        return made[-1]

    yield one
    for server in made:
        for client in server.clients:
            client.close()


def test_without_a_key_nothing_but_health(guarded: Callable[..., Guarded]) -> None:
    server = guarded()
    for method, path in (
        ("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"), ("POST", "/tokenize"), ("GET", "/metrics"), ("GET", "/v1/nothing"),
        ("GET", "/console/api/requests"), ("GET", "/console/api/machine"), ("POST", "/v1/files"),
        ("GET", "/anything"),
    ):  # fmt: skip
        answer = httpx.request(method, server.url + path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["code"] is None
        assert "You didn't provide an API key" in error["message"]
    for path in ("/health", "/ready", "/openapi.json"):
        assert httpx.get(server.url + path).status_code == 200, path


def test_wrong_keys_as_the_official_client_sees_them(guarded: Callable[..., Guarded]) -> None:
    server = guarded()
    expired = server.add("old", expires=int(time.time()) - 5)
    server.until_known(server.add("new"))
    for key, reason in (("tt-nonsense-and-more-of-it", "not a key"), (expired, "expired")):
        with pytest.raises(
            openai.AuthenticationError, match=f"Incorrect API key provided.*{reason}"
        ) as caught:
            server.client(key).chat.completions.create(**ASK)
        assert caught.value.code == "invalid_api_key"
        assert key not in str(caught.value)
    for header in ("Basic abc", "Bearer", server.admin, f"Token {server.admin}"):
        answer = httpx.get(f"{server.url}/v1/models", headers={"authorization": header})
        assert answer.status_code == 401
    # The scheme's name has no case.
    answer = httpx.get(f"{server.url}/v1/models", headers={"authorization": f"bearer {server.admin}"})
    assert answer.status_code == 200


def test_a_key_works_until_it_is_revoked(guarded: Callable[..., Guarded]) -> None:
    server = guarded("--step-ms", "5")
    client = server.until_known(server.add("alice"))
    assert client.chat.completions.create(**ASK).choices[0].message.content
    stream = client.chat.completions.create(**LONG | {"stream": True})
    next(iter(stream))
    change(server.path, lambda content: KeyFile(tenants=tuple(t for t in content.tenants if t.name == "ops")))
    time.sleep(1.2)
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(**ASK)
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"  # what ran goes on


def test_requests_per_minute(guarded: Callable[..., Guarded]) -> None:
    server = guarded()
    client = server.until_known(server.add("alice", requests_per_minute=3))
    for left in (2, 1, 0):
        raw = client.chat.completions.with_raw_response.create(**ASK)
        assert raw.headers["x-ratelimit-limit-requests"] == "3"
        assert raw.headers["x-ratelimit-remaining-requests"] == str(left)
    with pytest.raises(openai.RateLimitError, match=r"requests per min \(RPM\): Limit 3, Used 3") as caught:
        client.chat.completions.create(**ASK)
    error = caught.value
    assert (error.code, error.type, error.param) == ("rate_limit_exceeded", "requests", None)
    wait = int(error.response.headers["retry-after"])
    assert 15 <= wait <= 20
    assert wait - 1 <= float(error.response.headers["retry-after-ms"]) / 1000 <= wait
    assert client.models.list()  # looking costs nothing
    server.until_known(server.add("bob")).chat.completions.create(**ASK)  # and others are not concerned


def test_the_official_client_waits_as_told(guarded: Callable[..., Guarded]) -> None:
    server = guarded()
    key = server.add("alice", requests_per_minute=60)
    server.until_known(key)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=3, timeout=60) as client:
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: client.chat.completions.create(**ASK), range(62)))
    assert time.monotonic() - began >= 1.5


def test_tokens_per_minute_are_reserved_and_given_back(guarded: Callable[..., Guarded]) -> None:
    server = guarded()
    client = server.until_known(server.add("alice", tokens_per_minute=1000))
    ask = {"model": "speller", "prompt": "x" * 100, "max_tokens": 350}
    raw = client.completions.with_raw_response.create(**ask, extra_body={"stop_token_ids": [ord(" ")]})
    assert raw.headers["x-ratelimit-remaining-tokens"] == "550"  # 100 of prompt, 350 that may come
    used = raw.parse().usage.total_tokens
    assert used < 120
    listed = client.models.with_raw_response.list()
    left = int(listed.headers["x-ratelimit-remaining-tokens"])
    assert abs(left - (1000 - used)) < 40  # some came back with time
    large = ask | {"prompt": "x" * 110, "max_tokens": 400}
    client.completions.create(**large, extra_body={"ignore_eos": True})
    for _ in range(2):
        with pytest.raises(openai.RateLimitError, match=r"tokens per min \(TPM\): Limit 1000") as caught:
            client.completions.create(**large)
        assert (caught.value.type, caught.value.code) == ("tokens", "rate_limit_exceeded")
        assert int(caught.value.response.headers["retry-after"]) > 1


def test_requests_at_a_time(guarded: Callable[..., Guarded]) -> None:
    server = guarded("--step-ms", "20")
    client = server.until_known(server.add("alice", max_concurrent=2))
    streams = [client.chat.completions.create(**LONG, stream=True) for _ in range(2)]
    with pytest.raises(openai.RateLimitError, match="Too many requests at a time: Limit 2") as caught:
        client.chat.completions.create(**ASK)
    assert caught.value.response.headers["retry-after"] == "1"
    streams[0].close()
    for _ in range(50):
        try:
            client.chat.completions.create(**ASK)
            break
        except openai.RateLimitError:
            time.sleep(0.1)
    else:
        raise AssertionError("a closed stream still counts")


def test_models_that_a_key_may_not_use(guarded: Callable[..., Guarded]) -> None:
    server = guarded()
    client = server.until_known(server.add("alice", models=("another",)))
    for call in (
        lambda: client.chat.completions.create(**ASK),
        lambda: client.completions.create(model="speller", prompt="x", max_tokens=1),
        lambda: client.embeddings.create(model="speller", input="x"),
        lambda: client.models.retrieve("speller"),
    ):
        with pytest.raises(openai.PermissionDeniedError, match="does not have access to model") as caught:
            call()
        assert caught.value.code == "model_not_found"
    assert client.models.list().data == []
    allowed = server.until_known(server.add("bob", models=("default",)))  # one of its other names
    assert allowed.chat.completions.create(**ASK).choices
    assert [model.id for model in allowed.models.list()] == ["speller"]


def test_prefixes_are_private_to_a_key(guarded: Callable[..., Guarded]) -> None:
    server = guarded()
    alice, again, bob = (server.add(name) for name in ("alice", "carol", "bob"))
    prompt = {
        "model": "speller",
        "prompt": "a prompt that fills several pages of sixteen tokens each",
        "max_tokens": 1,
    }

    def cached(key: str, **extra: Any) -> int:
        usage = server.until_known(key).completions.create(**prompt, extra_body=extra).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        return usage.prompt_tokens_details.cached_tokens or 0

    assert cached(alice) == 0
    assert cached(alice) == 48
    assert cached(bob) == 0
    assert cached(again, cache_salt="x") == 0
    assert cached(again, cache_salt="x") == 48
    assert cached(again, cache_salt="y") == 0
    # A salt of one's own cannot reach into another's prefixes.
    salt = next(t["salt"] for t in json.loads(server.path.read_text())["tenants"] if t["name"] == "alice")
    assert cached(bob, cache_salt=f"{salt}\0") == 0
    assert cached(bob, cache_salt=salt) == 0


def test_one_tenants_hundred_do_not_delay_anothers_one(guarded: Callable[..., Guarded]) -> None:
    server = guarded("--step-ms", "10", "max_queue_per_key=120")
    heavy, light = server.until_known(server.add("heavy")), server.until_known(server.add("light"))
    body = LONG | {"max_tokens": 100}
    with ThreadPoolExecutor(101) as pool:
        hundred = [pool.submit(lambda: heavy.chat.completions.create(**body)) for _ in range(100)]
        time.sleep(1.0)
        began = time.monotonic()
        stream = light.chat.completions.create(**ASK, stream=True)
        next(iter(stream))
        first = time.monotonic() - began
        stream.close()
        done = sum(one.done() for one in hundred)
        for one in hundred:
            assert one.result().choices[0].finish_reason == "length"
    assert done < 60
    # Behind a hundred, 16 at a time and a second each, it would have waited for seconds.
    assert first < 1.0


def test_a_key_has_a_queue_of_its_own(guarded: Callable[..., Guarded]) -> None:
    server = guarded("--step-ms", "20", "max_queue_per_key=4")
    heavy, light = server.until_known(server.add("heavy")), server.until_known(server.add("light"))
    refused: list[openai.RateLimitError] = []

    def ask() -> bool:
        try:
            return bool(heavy.chat.completions.create(**LONG | {"max_tokens": 60}).choices)
        except openai.RateLimitError as error:
            refused.append(error)
            return False

    with ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(ask) for _ in range(40)]
        time.sleep(0.5)
        assert light.chat.completions.create(**ASK).choices
        served = sum(one.result() for one in asked)
    assert served == 20  # 16 run and 4 wait
    assert len(refused) == 20
    assert "requests of yours are running or waiting, and 20 is the most" in str(refused[0])
    assert all(int(error.response.headers["retry-after"]) >= 1 for error in refused)


def test_a_request_does_not_wait_longer_than_it_may(start: Callable[..., Any]) -> None:
    server = start("--step-ms", "20", "max_wait_seconds=1")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=60) as client:
        streams = [client.chat.completions.create(**LONG, stream=True) for _ in range(16)]
        for stream in streams:
            next(iter(stream))
        began = time.monotonic()
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError, match="has waited 1 s") as caught:
                client.chat.completions.create(**ASK, stream=stream)
            assert caught.value.response.headers["retry-after"]
        assert 1.5 < time.monotonic() - began < 6
        # Those that had started were not concerned.
        for started in streams:
            assert [chunk.choices[0].finish_reason for chunk in started][-1] == "length"


def test_a_request_that_takes_too_long_is_ended(start: Callable[..., Any]) -> None:
    server = start("--step-ms", "20", "request_seconds=1")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=60) as client:
        with pytest.raises(openai.InternalServerError, match="took longer than this server allows") as caught:
            client.chat.completions.create(**LONG)
        assert caught.value.status_code == 504
        assert caught.value.code == "request_timeout"
        with pytest.raises(openai.APIError, match="took longer"):
            list(client.chat.completions.create(**LONG, stream=True))
        assert client.chat.completions.create(**ASK).choices


def test_the_number_of_prompts_has_a_limit(start: Callable[..., Any]) -> None:
    server = start("max_prompts=4")
    ok = httpx.post(f"{server.url}/v1/completions", json={"prompt": ["a", "b"], "n": 2, "max_tokens": 1})
    assert len(ok.json()["choices"]) == 4
    answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": ["a"] * 5, "max_tokens": 1})
    assert answer.status_code == 400
    assert "4 outputs is the most" in answer.json()["error"]["message"]


def test_a_key_set_by_hand(start: Callable[..., Any]) -> None:
    server = start("api_key=correct-horse-battery")
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="correct-horse-battery", max_retries=0) as client:
        assert client.chat.completions.create(**ASK).choices


def test_metrics_are_for_admins(
    guarded: Callable[..., Guarded], start: Callable[..., Any], tmp_path: Path
) -> None:
    server = guarded()
    alice = server.add("alice")
    server.until_known(alice)
    for key, status in ((alice, 403), (server.admin, 200)):
        answer = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == status
    other = start(f"keys_file={server.path}", "open_metrics=true")
    assert httpx.get(f"{other.url}/metrics").status_code == 200
    assert httpx.get(f"{other.url}/v1/models").status_code == 401


def test_pages_of_other_sites(start: Callable[..., Any]) -> None:
    server = start("api_key=correct-horse-battery", 'cors_origin=["https://a.example"]')
    asked = {
        "origin": "https://a.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    allowed = httpx.options(f"{server.url}/v1/chat/completions", headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    # A refusal can be read by the page too.
    refused = httpx.get(f"{server.url}/v1/models", headers={"origin": "https://a.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://a.example")
    other = httpx.options(f"{server.url}/v1/models", headers=asked | {"origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


def test_no_pages_of_other_sites_unless_told(server: Any) -> None:
    answer = httpx.get(f"{server.url}/v1/models", headers={"origin": "https://a.example"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_open_server_for_a_network(start: Callable[..., Any], host: str, tmp_path: Path) -> None:
    refused = start(f"host={host}")
    assert refused.process.wait(timeout=20) == 1
    said = refused.end()[1]
    assert f"everybody who can reach {host} could use this server" in said
    assert "trimtab keys create" in said
    assert start(f"host={host}", "insecure_open=true").url.startswith("http://")
    assert start(f"host={host}", "api_key=correct-horse-battery").url.startswith("http://")


def test_every_answer_has_an_id(server: Any) -> None:
    ids = set()
    for path in ("/v1/models", "/v1/nothing", "/health"):
        found = httpx.get(server.url + path).headers["x-request-id"]
        assert found.startswith("req_")
        ids.add(found)
    assert len(ids) == 3


def test_threads_of_clients_are_counted_down_to_nothing(guarded: Callable[..., Guarded]) -> None:
    """However requests end, what they counted up is counted down."""
    server = guarded("--step-ms", "2")
    key = server.add("alice", max_concurrent=50)
    client = server.until_known(key)

    def one(number: int) -> None:
        if number % 3 == 0:
            client.chat.completions.create(**ASK)
        elif number % 3 == 1:
            client.chat.completions.create(**LONG, stream=True).close()
        else:
            httpx.post(
                f"{server.url}/v1/completions", content=b"{", headers={"authorization": f"Bearer {key}"}
            )

    threads = [threading.Thread(target=one, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(50):
        text = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {server.admin}"}).text
        if 'trimtab:http_requests_active{model_name="speller",engine="0"} 0\n' in text:
            return
        time.sleep(0.1)
    raise AssertionError(text)
