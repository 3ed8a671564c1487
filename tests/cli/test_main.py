"""The outside of the command line: help, errors, exit codes, pipes, completion."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli_program import PROGRAM, environment

from trimtab.cli.main import VERBS

HEAVY = {"numpy", "torch", "fastapi", "uvicorn", "rich", "jinja2", "tokenizers", "asyncio"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["no-such-verb"], ["pull", "--help"]], ids=str
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from trimtab.cli.main import main
try:
    main({arguments!r})
except SystemExit:
    print("loaded:", *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.rpartition("loaded:")[2].split()
    # typer itself needs pydantic as soon as it converts a value; the help and the version do without.
    allowed = set() if arguments[0] in ("--help", "--version") else {"pydantic"}
    assert not ((HEAVY | {"pydantic"}) - allowed) & {name.partition(".")[0] for name in loaded}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_with_examples(cli: Any, verb: str) -> None:
    done = cli(verb, "--help")
    assert done.returncode == 0
    assert f"Usage: trimtab {verb}" in done.stdout
    assert f"Examples:\n  trimtab {verb}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 110


def test_the_help_lists_every_verb(cli: Any) -> None:
    done = cli("--help")
    for verb, help_text in VERBS.items():
        assert f"  {verb}" in done.stdout
        assert help_text in done.stdout
    assert "Exit codes:" in done.stdout


def test_no_verb_shows_the_help(cli: Any) -> None:
    done = cli()
    assert done.returncode == 2
    assert "Commands:" in done.stdout


def test_version(cli: Any) -> None:
    import trimtab

    assert cli("--version").stdout == f"trimtab {trimtab.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        (["sevre"], 2, "no command `sevre`", "did you mean `trimtab serve`?"),
        (["xyzzy"], 2, "no command `xyzzy`", "there is run, serve"),
        (["serve", "--prot", "1"], 2, "no such option: --prot", "`trimtab serve --help`"),
        (["serve", "--port", "70000"], 2, "--port 70000: it should be less than or equal to 65535", ""),
        (["serve", "--port", "http"], 2, "invalid value for '--port'", "`trimtab serve --help`"),
        (["serve", "--memory", "lots"], 2, "lots", ""),
        (["serve", "--kv-type", "int4"], 2, "int4", "`trimtab serve --help`"),
        (["run", "--temperature", "-1", "-p", "x"], 2, "--temperature -1.0", ""),
        (["run", "-p", ""], 2, "the prompt is empty", "give one with -p"),
        (["run", "-f", "/no/such/file"], 2, "cannot read /no/such/file: No such file", ""),
        (["models", "--remove"], 2, "--remove needs a name", "`trimtab models` lists"),
        (["models", "--remove", "smollm3"], 2, "no model `smollm3` in the cache", "`trimtab models`"),
        (["pull", "smolm2"], 2, "did you mean `smollm2`?", "give a .gguf file"),
        (["papers", "--state", "done"], 2, "--state done", "planned, partial, works"),
        (["bench"], 2, "no benchmark named", "`trimtab bench --list`"),
        (["bench", "decod"], 2, "no benchmark `decod`", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_name_the_value_and_the_remedy(
    cli: Any, arguments: list[str], code: int, error: str, hint: str
) -> None:
    done = cli(*arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert error in done.stderr
    assert "Traceback" not in done.stderr
    message, _, rest = done.stderr.partition("\n\nhint: ")
    assert hint in rest or not hint
    assert not message.endswith(".")


def test_a_traceback_only_when_asked_for(cli: Any) -> None:
    for arguments in (["--debug", "run", "-p", ""], ["run", "-p", "", "--debug"]):
        done = cli(*arguments)
        assert "Traceback" in done.stderr
        assert "error: the prompt is empty" in done.stderr
        assert done.returncode == 2


def test_a_bug_is_called_one(cli: Any) -> None:
    done = cli("run", "-p", "x", FAKE_STEP_MS="not a number")
    assert done.returncode == 1
    assert done.stderr.startswith("error: trimtab failed: ValueError")
    assert "--debug" in done.stderr


def test_settings_come_from_the_environment(cli: Any) -> None:
    done = cli("serve", TRIMTAB_PORT="70000")
    assert "--port 70000" in done.stderr


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "papers", "--json"]
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
    ) as process:
        os.close(writer)
        _, err = process.communicate(timeout=30)
    assert err == ""
    assert process.returncode == 141


def test_ctrl_c_ends_with_130(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "run", "-p", "hello", "--max-tokens", "400"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path, FAKE_STEP_MS="50"),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(3)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - began < 10
    assert b"Traceback" not in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_ships(cli: Any, shell: str) -> None:
    script = cli("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_TRIMTAB_COMPLETE" in script.stdout, script.stderr


def test_completion_knows_verbs_options_and_models(cli: Any) -> None:
    def complete(line: str) -> str:
        words = line.split(" ")
        return str(
            cli(COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), _TRIMTAB_COMPLETE="complete_bash").stdout
        )

    assert complete("trimtab se").split() == ["serve"]
    assert "--kv-type" in complete("trimtab serve --kv")
    assert complete("trimtab run smo").split() == ["smollm2"]
