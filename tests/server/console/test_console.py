"""The console as people use it, in a headless Chromium: every page's main action, by hand and by key."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from console_browser import Watched, launched, program

pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
if program() is None:
    pytest.skip("no Chromium here", allow_module_level=True)

from playwright.sync_api import expect

HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=alert(2)> [a](javascript:alert(3)) "
    "![b](https://elsewhere.example/p.png) <iframe src=//elsewhere.example></iframe> "
    "[c](https://safe.example/) **bold** `<b>code</b>` <a href=data:text/html,x>d</a> "
)
PAGES = ("chat", "live", "requests", "machine")
KEY = "a-key-of-the-test-0123456789"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture
def visit(browser: Any, start: Any) -> Iterator[Callable[..., Watched]]:
    """Open watched pages; at the end none of them may have seen anything wrong.

    They are closed before the servers of `start` end, so that a page never misses its server.
    """
    made: list[Watched] = []

    def one(url: str, **options: Any) -> Watched:
        made.append(Watched(browser, url, **options))
        return made[-1]

    yield one
    for watched in made:
        watched.close()


def ask(page: Any, text: str) -> Any:
    """Write a message and send it by key; the answer that begins."""
    before = page.locator(".message.assistant").count()
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")
    return page.locator(".message.assistant").nth(before)


def answered(page: Any, text: str, tokens: int = 40) -> Any:
    """Ask, and wait for the end of a short answer."""
    page.get_by_label("Most tokens").fill(str(tokens))
    page.get_by_label("Temperature").fill("0")
    answer = ask(page, text)
    answer.locator(".cost").wait_for()
    return answer


# --- chat -------------------------------------------------------------------------------------------------


def test_an_answer_streams_and_says_what_it_cost(visit: Any, server: Any) -> None:
    page = visit(server.url).open()
    answer = answered(page, "Hello", 80)
    expect(answer.locator(".cost")).to_have_text(re.compile(r"80 tokens.*TTFT [\d.]+ (ms|s).*[\d.k]+ tok/s"))
    expect(answer.locator(".text")).to_contain_text("quick brown fox")
    expect(page.locator(".message.user .text")).to_have_text("Hello")
    # The conversation is there again after a reload.
    page.reload()
    expect(page.locator(".message.assistant .text")).to_contain_text("quick brown fox")
    expect(page.locator(".side .list .name")).to_have_text("Hello")


def test_escape_stops_and_keeps_what_came(visit: Any, start: Any) -> None:
    server = start("--step-ms", "40")
    page = visit(server.url).open()
    answer = ask(page, "A long one")
    expect(answer.locator(".text")).to_contain_text(re.compile(r"\w{3}"))
    page.keyboard.press("Escape")
    expect(answer.locator(".end")).to_have_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    kept = answer.locator(".text").inner_text()
    assert 3 <= len(kept) < 300
    # The server has stopped too.
    for _ in range(50):
        (row,) = httpx.get(f"{server.url}/console/api/requests").json()["data"]
        if row["status"] == "cancelled":
            break
        time.sleep(0.1)
    assert row["status"] == "cancelled"


def test_again_replaces_the_answer(visit: Any, server: Any) -> None:
    page = visit(server.url).open()
    page.get_by_label("Seed").fill("2")
    first = answered(page, "Hello").locator(".text").inner_text()
    page.get_by_label("Temperature").fill("1")
    page.get_by_label("Seed").fill("3")  # an odd seed shouts
    page.locator(".message.assistant").get_by_role("button", name="Again").click()
    expect(page.locator(".message.assistant .text")).to_have_text(first.upper().replace("Ï", "ï"))
    assert page.locator(".message").count() == 2


def test_an_edited_message_is_asked_again(visit: Any, server: Any) -> None:
    watched = visit(server.url)
    page = watched.open()
    answered(page, "First")
    answered(page, "Second")
    page.locator(".message.user").first.get_by_role("button", name="Edit").click()
    field = page.locator(".editing")
    expect(field).to_be_focused()
    expect(field).to_have_value("First")
    field.fill("Another first")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.keyboard.press("Enter")
    assert sent.value.post_data_json["messages"] == [{"role": "user", "content": "Another first"}]
    expect(page.locator(".message.user .text")).to_have_text("Another first")
    expect(page.locator(".message.assistant .cost")).to_have_count(1)
    # Leaving with Escape changes nothing.
    page.locator(".message.user").get_by_role("button", name="Edit").click()
    page.locator(".editing").fill("Nonsense")
    page.keyboard.press("Escape")
    expect(page.locator(".message.user .text")).to_have_text("Another first")


def test_an_edited_answer_only_changes(visit: Any, server: Any) -> None:
    page = visit(server.url).open()
    answered(page, "Hello")
    page.locator(".message.assistant").get_by_role("button", name="Edit").click()
    page.locator(".editing").fill("What I **wanted**")
    page.get_by_role("button", name="Keep").click()
    expect(page.locator(".message.assistant .text strong")).to_have_text("wanted")
    page.reload()
    expect(page.locator(".message.assistant .text")).to_have_text("What I wanted")


def test_settings_and_system_prompt_go_with_the_request(visit: Any, server: Any) -> None:
    page = visit(server.url).open()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Top k").fill("40")
    page.get_by_label("Min p").fill("1.5")  # wrong: said so, and not sent
    expect(page.get_by_label("Min p")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Stop at").fill("dog\nfox")
    page.get_by_label("Most tokens").fill("7")
    page.get_by_role("textbox", name="Message").fill("Hi")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.keyboard.press("Enter")
    assert sent.value.post_data_json == {
        "stream": True,
        "stream_options": {"include_usage": True},
        "model": "speller",
        "temperature": 0.3,
        "max_tokens": 7,
        "top_k": 40,
        "stop": ["dog", "fox"],
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    }
    page.locator(".cost").wait_for()


def test_several_conversations_are_kept_apart(visit: Any, server: Any) -> None:
    page = visit(server.url).open()
    answered(page, "About boats")
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".message")).to_have_count(0)
    answered(page, "About bread")
    names = page.locator(".side .list .name")
    expect(names).to_have_text(["About bread", "About boats"])
    names.nth(1).click()
    expect(page.locator(".message.user .text")).to_have_text("About boats")
    page.locator(".side .list li").nth(1).hover()
    page.get_by_role("button", name="Delete “About boats”").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(names).to_have_text(["About bread"])
    expect(page.locator(".message.user .text")).to_have_text("About bread")


def test_copying(visit: Any, server: Any) -> None:
    watched = visit(server.url, permissions=["clipboard-read", "clipboard-write"])
    page = watched.open()
    answered(page, "Copy me")
    page.locator(".message.user").get_by_role("button", name="Copy").click()
    expect(page.locator(".message.user .actions")).to_contain_text("Copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == "Copy me"


def test_an_error_is_shown_where_the_answer_would_be(visit: Any, server: Any) -> None:
    watched = visit(server.url)
    watched.forgive = ("400",)
    page = watched.open()
    answer = ask(page, "x" * 600)  # longer than the model's context
    expect(answer.locator(".error")).to_contain_text("exceed the context")
    expect(answer.get_by_role("button", name="Try again")).to_be_visible()


def test_hostile_output_stays_text(visit: Any, start: Any) -> None:
    server = start("--text", HOSTILE)
    watched = visit(server.url)
    page = watched.open()
    answer = answered(page, "Attack", 390)
    text = answer.locator(".text")
    expect(text).to_contain_text("<script>alert(1)</script>")
    expect(text).to_contain_text("<img src=x onerror=alert(2)>")
    expect(text.locator("strong").first).to_have_text("bold")
    expect(text.locator("code").first).to_have_text("<b>code</b>")
    assert text.locator("script, img, iframe, b, object, form").count() == 0
    targets = text.locator("a").evaluate_all("all => all.map((one) => one.href)")
    assert set(targets) == {"https://safe.example/", "https://elsewhere.example/p.png"}
    # The same where its tokens are shown.
    page.get_by_role("link", name="Inspect").click()
    page.locator(".token-view").wait_for()
    assert page.locator("main script, main img, main iframe").count() == 0
    # And in the title of the conversation, which a person may have pasted.
    page.goto(f"{server.url}/#/chat")
    page.get_by_role("button", name="New conversation").click()
    answered(page, "<img src=x onerror=alert(4)>")
    expect(page.locator(".side .name").first).to_have_text("<img src=x onerror=alert(4)>")


def test_a_key_is_asked_for_and_used(visit: Any, start: Any) -> None:
    server = start(f"api_key={KEY}")
    watched = visit(server.url)
    watched.forgive = ("401",)
    page = watched.open()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("API key").fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("does not know this key")
    dialog.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#head .model")).to_have_text("speller")
    answered(page, "Hello")
    page.reload()  # the tab remembers it
    answered(page, "Hello again")
    page.goto(f"{server.url}/#/requests")
    expect(page.locator(".rows tbody tr")).to_have_count(2)


# --- live -------------------------------------------------------------------------------------------------


def busy(url: str, count: int = 4, tokens: int = 150) -> None:
    for number in range(count):
        body = {"prompt": f"{number} runs", "max_tokens": tokens, "temperature": 0}
        assert httpx.post(f"{url}/v1/completions", json=body, timeout=30).status_code == 200


def test_live_figures_and_charts(visit: Any, start: Any) -> None:
    server = start("--step-ms", "2")
    page = visit(server.url).open("live")
    busy(server.url)
    tokens = page.locator(".chart", has=page.get_by_role("heading", name="Tokens a second"))
    expect(tokens.locator(".summary")).to_have_text(
        re.compile(r"Decode .* ([1-9]|\d{2,})[\d.]* at most"), timeout=8000
    )
    expect(page.locator(".figures div", has_text="TTFT")).to_have_text(re.compile(r"[\d.]+ (µs|ms|s)"))
    assert page.locator(".chart svg path.line").count() >= 10
    # By key: the cursor appears and its moment is spoken.
    tokens.locator(".frame").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(tokens.locator(".moment")).to_have_text(re.compile(r"\d\d:\d\d:\d\d"))
    expect(tokens.locator("[aria-live]")).to_have_text(re.compile(r"decode .*, prefill"))
    # Held figures do not move; a new page has the history at once.
    page.get_by_role("button", name="Hold").click()
    expect(page.get_by_role("button", name="Go on")).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(tokens.locator(".summary")).to_contain_text("at most")


def test_the_console_finds_the_server_again(visit: Any, start: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    first = start(f"port={port}")
    watched = visit(first.url)
    watched.forgive = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "ERR_CONNECTION_RESET")
    page = watched.open("live")
    state = page.locator("#head .state")
    expect(state).to_have_text("ready")
    first.end()
    expect(state).to_have_text(re.compile("no connection|stopping"))
    expect(page.locator(".notice")).to_be_visible()
    start(f"port={port}")
    expect(state).to_have_text("ready")


def test_a_model_that_loads_is_said_to(visit: Any, start: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    starter = threading.Thread(target=start, args=("--load-until", str(tmp_path / "go"), f"port={port}"))
    starter.start()
    watched = visit(f"http://127.0.0.1:{port}")
    for _ in range(100):
        try:
            httpx.get(f"{watched.url}/health")
            break
        except httpx.ConnectError:
            time.sleep(0.05)
    page = watched.open()
    expect(page.locator("#head .state")).to_have_text("loading the model")
    expect(page.locator(".composer .hint")).to_contain_text("loading")
    page.get_by_label("Most tokens").fill("9")
    answer = ask(page, "Early")  # it waits, and is answered
    expect(answer.locator(".thinking")).to_be_visible()
    (tmp_path / "go").touch()
    answer.locator(".cost").wait_for()
    expect(page.locator("#head .state")).to_have_text("ready")
    starter.join()


# --- requests ---------------------------------------------------------------------------------------------


def test_a_request_is_opened_and_scored(visit: Any, start: Any) -> None:
    server = start("--step-ms", "2")
    busy(server.url, 2, 30)
    httpx.post(f"{server.url}/v1/completions", json={"prompt": "\x07"})  # breaks the runner
    page = visit(server.url).open("requests")
    rows = page.locator(".rows tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("failed")
    rows.nth(1).locator("a").click()
    for phase in ("Queue", "Prefill", "Decode", "Total"):
        expect(page.locator(".waterfall tr", has_text=phase)).to_contain_text(re.compile(r"[\d.]+ (µs|ms|s)"))
    expect(page.locator(".tokens .chip")).to_have_count(30)
    expect(page.locator(".intervals rect")).to_have_count(29)
    page.get_by_role("button", name="Score them").click()
    expect(page.locator(".tokens .chip.scored")).to_have_count(30)
    page.locator(".tokens .chip").nth(3).click()
    expect(page.locator(".about")).to_contain_text("Token 4 of 30")
    expect(page.locator(".about")).to_contain_text("61 %")  # e to the -0.5
    page.keyboard.press("ArrowRight")
    expect(page.locator(".about")).to_contain_text("Token 5 of 30")
    expect(page.locator(".alternatives li")).to_have_count(5)
    expect(page.locator(".intervals rect.chosen")).to_have_count(1)
    page.get_by_label("Failed or refused").check(force=True)
    expect(rows).to_have_count(1)
    page.get_by_role("searchbox").fill("nothing like it")
    expect(page.locator(".notice")).to_have_text("No request is like this.")


def test_without_content_the_inspector_says_why(visit: Any, start: Any) -> None:
    server = start("inspect=meta")
    busy(server.url, 1, 20)
    page = visit(server.url).open("requests")
    page.locator(".rows a").click()
    expect(page.locator(".request-detail")).to_contain_text("--inspect full")
    expect(page.locator(".intervals rect")).to_have_count(19)
    assert page.locator(".chip").count() == 0


def test_an_empty_list_says_what_to_do(visit: Any, start: Any) -> None:
    page = visit(start().url).open("requests")
    expect(page.locator(".notice")).to_contain_text("No request yet")


# --- machine ----------------------------------------------------------------------------------------------


def test_the_machine_is_measured_when_asked(
    visit: Any, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_PROFILE", str(tmp_path / "profile.json"))
    page = visit(start().url).open("machine")
    expect(page.locator(".budget-bar")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("Processor")
    page.get_by_role("button", name="Measure this machine").click()
    expect(page.locator(".roofline .roof-int8").first).to_be_visible()
    expect(page.get_by_role("button", name="Measure again")).to_be_visible()
    assert (tmp_path / "profile.json").is_file()


# --- everywhere -------------------------------------------------------------------------------------------


def test_every_page_by_key_alone(visit: Any, server: Any) -> None:
    page = visit(server.url).open("live")
    page.locator(".chart").first.wait_for()
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    # Every stop of the tab key can be seen.
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        ring = page.evaluate(
            "() => { const one = document.activeElement, look = getComputedStyle(one);"
            " return [one.outerHTML.slice(0, 120), look.outlineStyle, parseFloat(look.outlineWidth)] }"
        )
        if ring[0].startswith("<body"):
            break
        seen.add(ring[0])
        assert ring[1] != "none", ring
        assert ring[2] >= 1, ring
    assert len(seen) >= 8
    # Write, send, and go to the other pages.
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("g")
    page.keyboard.press("c")
    page.get_by_role("textbox", name="Message").wait_for()
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("/")
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()
    page.keyboard.type("By key")
    page.keyboard.press("Enter")
    page.locator(".cost").wait_for()
    page.evaluate("() => document.activeElement.blur()")
    for key, title in (("l", "Live"), ("r", "Requests"), ("m", "Machine"), ("c", "Chat")):
        page.keyboard.press("g")
        page.keyboard.press(key)
        expect(page.locator("#head nav a[aria-current]")).to_have_text(title)
        expect(page).to_have_title(f"{title} · trimtab")
        page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keyboard")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.parametrize("name", PAGES)
def test_everything_has_a_name(visit: Any, server: Any, name: str) -> None:
    page = visit(server.url).open(name)
    page.wait_for_timeout(600)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, a[href], input, select, textarea, [role=img]")]
          .filter((one) => one.checkVisibility())
          .filter((one) => !(one.ariaLabel || one.getAttribute("aria-labelledby") || one.title ||
                             one.textContent.trim() || one.labels?.length))
          .map((one) => one.outerHTML.slice(0, 90))"""
    )
    assert nameless == []
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [360, 390, 768, 1024])
def test_no_page_is_wider_than_the_screen(visit: Any, server: Any, name: str, width: int) -> None:
    busy(server.url, 1, 20)
    page = visit(server.url, viewport={"width": width, "height": 760}).open(name)
    page.wait_for_timeout(900)
    wide = page.evaluate(
        """() => [document.documentElement.scrollWidth, document.querySelector("main").scrollWidth]"""
    )
    assert max(wide) <= width
    page.locator("#head nav a").first.click()
    expect(page).to_have_title("Chat · trimtab")


def test_phones_have_the_lists_as_sheets(visit: Any, server: Any) -> None:
    page = visit(server.url, viewport={"width": 390, "height": 800}, has_touch=True).open()
    expect(page.locator("#settings")).to_be_hidden()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_be_visible()
    page.locator("#settings").get_by_role("button", name="Close").click()
    expect(page.locator("#settings")).to_be_hidden()
    page.get_by_role("button", name="Conversations").click()
    expect(page.locator("#conversations")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_until_a_person_chooses(visit: Any, server: Any, scheme: str) -> None:
    page = visit(server.url, color_scheme=scheme).open()
    paper = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert (page.evaluate(paper) > 128) == (scheme == "light")
    switch = page.locator("button.theme")
    other = "dark" if scheme == "light" else "light"
    for _ in range(3):
        switch.click()
        if other in switch.get_attribute("title"):
            break
    assert (page.evaluate(paper) > 128) == (other == "light")
    page.reload()
    assert (page.evaluate(paper) > 128) == (other == "light")


def test_nothing_moves_for_those_who_ask(visit: Any, start: Any) -> None:
    server = start("--step-ms", "30")
    page = visit(server.url, reduced_motion="reduce").open()
    ask(page, "Slowly").locator(".text > *").first.wait_for()
    moving = page.evaluate("() => document.getAnimations().length")
    assert moving == 0
    page.keyboard.press("Escape")


def test_nothing_is_asked_of_anyone_else(visit: Any, server: Any) -> None:
    watched = visit(server.url)
    for name in PAGES:
        page = watched.open(name)
        page.wait_for_timeout(300)
    # What went elsewhere would already count as wrong; this says that the watch works.
    assert len(watched.asked) > 20
    assert all(url.startswith(server.url) for url in watched.asked)


def test_a_growing_answer_is_announced(visit: Any, server: Any) -> None:
    page = visit(server.url).open()
    answered(page, "Speak", 120)
    log = page.get_by_role("log")
    expect(log).to_contain_text("quick brown fox")
    assert log.get_attribute("aria-live") == "polite"
