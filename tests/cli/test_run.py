"""`trimtab run` as scripts use it, and the conversation in a real (pseudo) terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_program import PROGRAM, environment


def test_one_answer_on_stdout(cli: Any) -> None:
    done = cli("run", "-p", "hello", "--max-tokens", "20", "--temperature", "0")
    assert done.returncode == 0
    assert re.fullmatch(r".{10,20}\n", done.stdout)
    assert done.stderr == ""


def test_a_pipe_is_a_prompt(cli: Any) -> None:
    piped = cli("run", "--max-tokens", "20", "--seed", "1", stdin="hello\n")
    given = cli("run", "-p", "hello", "--max-tokens", "20", "--seed", "1")
    assert piped.stdout == given.stdout != ""


def test_a_file_follows_the_prompt(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("b\n")
    from_file = cli("run", "-p", "a", "-f", str(tmp_path / "notes.txt"), "--json")
    from_stdin = cli("run", "-p", "a", "-f", "-", "--json", stdin="b")
    whole = cli("run", "-p", "a\n\nb", "--json")
    counts = [json.loads(done.stdout)["prompt_tokens"] for done in (from_file, from_stdin, whole)]
    assert counts == [counts[0]] * 3


def test_json(cli: Any) -> None:
    answer = json.loads(cli("run", "-p", "hello", "--json", "--max-tokens", "5").stdout)
    assert answer["model"] == "speller"
    assert answer["finish_reason"] == "length"
    assert answer["completion_tokens"] == 5
    assert answer["total_s"] >= answer["first_token_s"] > 0


def test_raw_text_has_no_template(cli: Any) -> None:
    done = cli("run", "--raw", "-p", "T", "--max-tokens", "9", "--temperature", "0")
    assert done.stdout == "he quick \n"


def test_stats_go_to_stderr(cli: Any) -> None:
    done = cli("run", "-p", "hi", "--max-tokens", "9", "--stats")
    assert re.search(r"9 tokens, .* tokens/s, first after \d+ ms \(\d+ tokens of prompt\)", done.stderr)
    assert "tokens" not in done.stdout


def test_a_prompt_beyond_the_context_is_refused(cli: Any) -> None:
    done = cli("run", "-p", "x" * 600)
    assert done.returncode == 2
    assert "the context holds 512" in done.stderr


class Keyboard:
    """Somebody at a terminal."""

    def __init__(self, folder: Path, *arguments: str, **more: str) -> None:
        self.master, slave = pty.openpty()
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "run", *arguments],
            stdin=slave, stdout=slave, stderr=slave, close_fds=True, start_new_session=True,
            env=environment(folder, **{"TERM": "xterm", "NO_COLOR": "1"} | more),
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str, timeout_s: float = 30) -> str:
        """Wait until the screen shows it; what was shown up to its end."""
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not appear in {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
                except OSError:
                    assert text in self.seen, f"ended without {text!r}: {self.seen!r}"
        shown, _, self.seen = self.seen.partition(text)
        return shown + text

    def leave(self) -> int:
        return self.process.wait(timeout=30)


@pytest.fixture
def keyboard(tmp_path: Path) -> Iterator[Any]:
    opened: list[Keyboard] = []

    def start(*arguments: str, **more: str) -> Keyboard:
        opened.append(Keyboard(tmp_path, *arguments, **more))
        opened[-1].expect(">>> ")
        return opened[-1]

    yield start
    for one in opened:
        one.process.kill()
        one.process.wait()
        os.close(one.master)


def test_a_conversation(keyboard: Any, tmp_path: Path) -> None:
    keys = keyboard("--temperature", "0", "--max-tokens", "12", "--stats")
    keys.type("hello\n")
    assert "12 tokens" in keys.expect(">>> ")
    keys.type("/hepl\n")
    assert "did you mean /help?" in keys.expect(">>> ")
    keys.type("/help\n")
    assert "/system [TEXT]" in keys.expect(">>> ")
    keys.type("/params temperature=1.5 seed=3\n")
    assert "temperature=1.5" in keys.expect(">>> ")
    keys.type("/params temperature=hot\n")
    assert "error: --temperature hot" in keys.expect(">>> ")
    keys.type("/system be brief\n")
    keys.expect("system: be brief")
    keys.type("/retry\n")
    keys.expect("12 tokens")
    keys.type(f"/save {tmp_path / 'talk.json'}\n")
    keys.expect("saved to")
    messages = json.loads((tmp_path / "talk.json").read_text())
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    keys.type("/reset\n")
    keys.expect("forgotten")
    keys.type("/exit\n")
    assert keys.leave() == 0
    assert "hello" in (tmp_path / "state" / "trimtab" / "history").read_text()


def test_longer_texts(keyboard: Any, tmp_path: Path) -> None:
    keys = keyboard("--max-tokens", "2")
    keys.type("one \\\n")
    keys.expect("... ")
    keys.type("two\n")
    keys.expect(">>> ")
    keys.type('"""first\n')
    keys.expect("... ")
    keys.type('second"""\n')
    keys.expect(">>> ")
    keys.type(f"/save {tmp_path / 'talk.json'}\n")
    keys.expect("saved to")
    messages = json.loads((tmp_path / "talk.json").read_text())
    assert [m["content"] for m in messages if m["role"] == "user"] == ["one \ntwo", "first\nsecond"]


def test_ctrl_c_stops_the_answer_and_not_the_program(keyboard: Any) -> None:
    keys = keyboard("--max-tokens", "300", "--temperature", "0", FAKE_STEP_MS="30")
    keys.type("hello\n")
    keys.expect("fox")
    began = time.monotonic()
    keys.type("\x03")
    shown = keys.expect(">>> ")
    assert time.monotonic() - began < 6
    assert "…" in shown
    keys.type("again\n")
    keys.expect("fox")
    keys.process.send_signal(signal.SIGINT)
    assert "…" in keys.expect(">>> ")
    keys.type("\x04")
    assert keys.leave() == 0


def test_ctrl_c_twice_at_the_prompt_leaves(keyboard: Any) -> None:
    keys = keyboard()
    # A signal in the instant before Python's readline waits for a key is seen only with the next one.
    for _ in range(50):
        keys.type("\x03")
        time.sleep(0.2)
        if keys.process.poll() is not None:
            break
    assert "Ctrl-C again" in keys.expect("leave")
    assert keys.leave() == 130


def test_answers_only_on_a_redirected_stdout(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "run", "--max-tokens", "4", "--temperature", "0"],
        stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path),
    ) as process:  # fmt: skip
        os.write(master, b"hello\n/exit\n")
        out, err = process.communicate(timeout=30)
    os.close(master)
    os.close(slave)
    assert len(out.encode()) == 4 + 2
    assert ">>> " in err


def test_settings_that_need_a_prompt(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "run", "--json"],
        stdin=slave, capture_output=True, text=True, timeout=30, env=environment(tmp_path),
    )  # fmt: skip
    os.close(master)
    os.close(slave)
    assert done.returncode == 2
    assert "--json needs a prompt" in done.stderr
