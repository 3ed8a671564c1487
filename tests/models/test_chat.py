"""Chat templates: published shapes render as Transformers does; hostile ones end quickly in an error."""

from __future__ import annotations

import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from template_cases import HOSTILE, TEMPLATES, blocks

from trimtab.errors import BadFile, TrimtabError, UsageError
from trimtab.models.chat import ChatTemplate

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi, I'm <b>Ω</b>"},
    {"role": "assistant", "content": "  Hello!\n"},
    {"role": "user", "content": "1+1?"},
]
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "naïve": {"type": ["string", "null"]}},
}
TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "Adds & more", "parameters": PARAMETERS}}
]


def render(source: str, messages: Any = MESSAGES, **variables: Any) -> str:
    return ChatTemplate(source, NAMES, Path("model.gguf"), now=lambda: datetime(2024, 7, 26)).render(
        messages, **variables
    )


def theirs(source: str, messages: Any = MESSAGES, **variables: Any) -> str:
    """Transformers' rendering."""
    from transformers.utils.chat_template_utils import render_jinja_template

    variables = NAMES | variables
    rendered, _ = render_jinja_template([messages], chat_template=source, **variables)
    return str(rendered[0])


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_renders_as_transformers(name: str, prompt: bool) -> None:
    options = {"add_generation_prompt": prompt, "tools": TOOLS if name == "tools" else None}
    assert render(TEMPLATES[name], **options) == theirs(TEMPLATES[name], **options)


def test_the_clock_is_an_argument() -> None:
    assert render("{{ strftime_now('%d %b %Y') }}") == "26 Jul 2024"


def test_a_template_that_refuses_blames_the_messages() -> None:
    with pytest.raises(UsageError, match="roles must alternate"):
        render(TEMPLATES["namespaces"], [*MESSAGES, {"role": "user", "content": "again"}])
    with pytest.raises(UsageError, match="cannot use these messages"):
        render("{{ messages[0]['content'] + 'x' }}", [{"role": "user", "content": None}])


def test_long_conversations_get_a_larger_budget() -> None:
    messages = [{"role": ("user", "assistant")[i % 2], "content": "word " * 40} for i in range(2_000)]
    assert len(render(TEMPLATES["turns"], messages)) > 400_000
    quadratic = (
        "{% for m in messages %}{% if messages[:loop.index]|length == loop.index %}x{% endif %}{% endfor %}"
    )
    assert render(quadratic, messages) == "x" * 2_000


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_in_a_clear_error(name: str) -> None:
    before = [dict(message) for message in MESSAGES]
    started = time.monotonic()
    with pytest.raises(TrimtabError) as caught:
        render(HOSTILE[name])
    assert time.monotonic() - started < 10.0  # seconds of a slow, shared machine; typically well under one
    assert len(str(caught.value)) < 1_000
    assert before == MESSAGES


GROWING = ("product", "list", "doubling", "nested", "kept", "split", "replace", "join", "center", "literal")
MEMORY_CASES = [name for name in HOSTILE if name.startswith(GROWING)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident set from /proc")
def test_hostile_templates_use_little_memory() -> None:
    import subprocess

    code = (
        "import resource, sys; sys.path[:0] = [sys.argv[1]]\n"
        "import test_chat\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name in test_chat.MEMORY_CASES:\n"
        "    try: test_chat.render(test_chat.HOSTILE[name])\n"
        "    except test_chat.TrimtabError: pass\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    # BASE_TEXT is 16 Mi characters; a few copies of them may be alive at once.
    assert int(done.stdout) < 160


def test_renderings_of_several_threads_do_not_mix() -> None:
    template = ChatTemplate(TEMPLATES["turns"], NAMES, Path("m"))
    wrong: list[str] = []

    def work(number: int) -> None:
        for _ in range(20):
            text = template.render([{"role": "user", "content": str(number)}])
            if text.count(str(number)) != 1:
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_deeply_nested_messages_are_the_callers_fault() -> None:
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    with pytest.raises(UsageError, match="deep"):
        render("{{ messages }}", [{"role": "user", "content": deep}])


@settings(max_examples=150, deadline=None)
@given(st.lists(blocks, min_size=1, max_size=6).map("".join))
def test_no_template_runs_away(source: str) -> None:
    started = time.monotonic()
    try:
        text = render("{% set ns = namespace(v=1) %}" + source)
    except (BadFile, UsageError):
        pass
    else:
        assert len(text) <= 2 << 20
    assert time.monotonic() - started < 15.0
