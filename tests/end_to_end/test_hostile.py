"""Input that means harm, on every surface: an error that names the file or the limit, and no harm done."""

from __future__ import annotations

import json
import pickle
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_model import small_model
from real_server import RealServer, trimtab

from trimtab import LLM, SamplingParams
from trimtab.errors import BadFile, TooLong, TrimtabError

CONTEXT = 64
LONG = "much too long " * 100  # 300 tokens

DOUBLING = "{% set ns = namespace(v='ab') %}{% for i in range(60) %}{% set ns.v = ns.v + ns.v %}{% endfor %}"
SPINNING = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}"
ATTACKS = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__['os'].system('touch MARK') }}",
    "filter": "{{ (messages|attr('__class__'))|attr('__base__') }}",
    "imports": "{{ namespace.__init__.__builtins__['__import__']('pathlib').Path('MARK').touch() }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "writing": "{{ messages.append(messages[0]) }}",
    "spinning": SPINNING + "{% endfor %}" * 3,
    "memory": DOUBLING + "{{ ns.v }}",
    "recursion": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
}
FILES = {
    "include": "{% include '/etc/passwd' %}",
    "syntax": "{% for message in messages %}",
    "nesting": "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
}


class Trap:
    """Unpickling this makes a file: no test may ever find it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What exists once an attack has worked."""
    return tmp_path_factory.mktemp("mark") / "mark"


@pytest.fixture(scope="module")
def hostile(default_model: Path, mark: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose template attacks when the first message is an attack's name, and else repeats it."""
    template = "{% set name = messages[0].content %}"
    for name, attack in ATTACKS.items():
        template += "{% if name == '" + name + "' %}" + attack.replace("MARK", str(mark)) + "{% endif %}"
    path = tmp_path_factory.mktemp("hostile") / "hostile.gguf"
    return small_model(default_model, path, template + "{{ name }}")


@pytest.fixture(scope="module")
def server(hostile: Path) -> Iterator[RealServer]:
    with RealServer(str(hostile), "--context", str(CONTEXT)) as server:
        yield server
        code, said = server.end()
        assert code == 0
        assert "Traceback" not in said


def chat(server: RealServer, text: str) -> tuple[int, str]:
    """Status of the answer, and its error's message or its text."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 4}
    answer = server.client.post("/v1/chat/completions", json=body)
    whole = answer.json()
    if answer.status_code == 200:
        return 200, whole["choices"][0]["finish_reason"]
    return answer.status_code, whole["error"]["message"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_template_gets_an_error_and_the_server_stays_up(
    server: RealServer, hostile: Path, mark: Path, attack: str
) -> None:
    status, message = chat(server, attack)
    assert status in (400, 422), message
    assert str(hostile) in message
    assert "chat template" in message
    assert len(message) < 1_000
    assert not mark.exists()
    assert chat(server, "hello") == (200, "length")


def test_attacks_do_not_keep_others_from_being_answered(server: RealServer) -> None:
    """Several spinning templates at once end, and what came meanwhile is answered."""
    attackers = [threading.Thread(target=chat, args=(server, "spinning")) for _ in range(4)]
    for attacker in attackers:
        attacker.start()
    assert chat(server, "hello") == (200, "length")
    for attacker in attackers:
        attacker.join()
    assert server.client.get("/health").status_code == 200


def test_a_hostile_template_in_python_and_in_the_terminal(hostile: Path, mark: Path) -> None:
    with LLM(hostile, context=CONTEXT) as llm:
        for attack in ("globals", "spinning"):
            with pytest.raises(BadFile, match="chat template") as caught:
                llm.chat([{"role": "user", "content": attack}])
            assert str(hostile) in str(caught.value)
        assert (
            llm.chat([{"role": "user", "content": "hello"}], SamplingParams(max_tokens=4)).prompt_tokens == 1
        )
    done = trimtab("run", str(hostile), "--context", str(CONTEXT), "-p", "globals")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"error: {hostile}: chat template reaches for what it may not use")
    assert not mark.exists()


@pytest.mark.parametrize("name", FILES)
def test_a_template_that_cannot_even_be_compiled(default_model: Path, tmp_path: Path, name: str) -> None:
    path = small_model(default_model, tmp_path / f"{name}.gguf", FILES[name])
    done = trimtab("run", str(path), "-p", "hello")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"error: {path}: chat template ")
    # Text without a conversation needs no template.
    done = trimtab("run", str(path), "--raw", "-p", "hello", "--max-tokens", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["completion_tokens"] <= 2


@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors", "pytorch_model.bin", "model.pt"])
@pytest.mark.parametrize("kind", ["zip archive", "pickle"])
def test_archives_and_pickles_named_as_models(tmp_path: Path, mark: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    dangerous = pickle.dumps(Trap(mark))
    if kind == "pickle":
        path.write_bytes(dangerous)
    else:  # as PyTorch saves
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", dangerous)
    with pytest.raises(TrimtabError, match=kind) as caught:
        LLM(path)
    assert str(path) in str(caught.value)
    if name == "model.gguf":
        for verb in (["serve", str(path), "--port", "0"], ["run", str(path), "-p", "hello"]):
            done = trimtab(*verb)
            assert (done.returncode, done.stdout) == (3, "")
            assert done.stderr.startswith("error: ")
            assert str(path) in done.stderr
            assert kind in done.stderr
    assert not mark.exists()


def test_a_prompt_beyond_the_context(server: RealServer, hostile: Path) -> None:
    with LLM(hostile, context=CONTEXT) as llm:
        for prompt in (LONG, list(range(1_000, 1_000 + CONTEXT))):
            with pytest.raises(TooLong, match=f"exceed the context of {CONTEXT} tokens"):
                llm.generate(prompt)
        with pytest.raises(TooLong, match=f"exceed the context of {CONTEXT} tokens"):
            llm.chat([{"role": "user", "content": LONG}])
        assert len(llm.generate("short", SamplingParams(max_tokens=3, ignore_eos=True))[0].token_ids) == 3

    for path, body in (
        ("/v1/completions", {"prompt": LONG}),
        ("/v1/completions", {"prompt": LONG, "stream": True}),
        ("/v1/completions", {"prompt": ["short", LONG]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
    ):
        answer = server.client.post(path, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
        assert f"context of {CONTEXT} tokens" in error["message"]
    assert chat(server, "hello") == (200, "length")

    for how in ([], ["--raw"], ["--json"]):
        done = trimtab("run", str(hostile), "--context", str(CONTEXT), "-p", LONG, *how)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert str(CONTEXT) in done.stderr
