"""`trimtab`: finds the verb, runs it, and turns every failure into two lines and an exit code.

A verb's module is imported when the verb is used; the list for `--help` is the table below, so that the help
shows at once. Nothing here knows what a verb does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

import trimtab
from trimtab.cli.lazy import LazyGroup
from trimtab.cli.text import write_section
from trimtab.errors import TrimtabError

VERBS = {
    "run": "Chat with a model in the terminal, or answer one prompt",
    "serve": "Serve a model over an OpenAI-compatible HTTP API",
    "keys": "Make, list, change and revoke the API keys of a server",
    "pull": "Fetch a model into the cache",
    "models": "List, check and remove the models in the cache",
    "measure": "Measure what this machine can do, and where the time of a run goes",
    "fit": "Predict and plan: what a workload would take on this machine",
    "evaluate": "Compare models and engines: time, cost, memory and quality side by side",
    "bench": "Compare trimtab with its peers, side by side",
    "papers": "List the papers trimtab is built from, and what became of each",
}

EXAMPLES = """\
trimtab run                        chat with the default model
trimtab run -p "Why is the sky blue?"
echo "Name a river" | trimtab run  the answer goes to stdout
trimtab serve --port 8000          then point any OpenAI client at it
trimtab serve model.gguf --memory 400MB
"""

EXITS = """\
0 done · 1 failure inside trimtab · 2 wrong usage · 3 a file that cannot be used · 4 does not fit into the
memory · 5 busy · 6 offline · 130 interrupted"""

INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended


class Verbs(LazyGroup):
    """The group of all verbs."""

    table, package = VERBS, "trimtab.cli"

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # typer would make it a failure
            raise typer.Exit(BROKEN_PIPE) from error

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        write_section(formatter, "Examples", EXAMPLES)
        write_section(formatter, "Exit codes", EXITS)


WIDTH = {"max_content_width": 100}

app = typer.Typer(cls=Verbs, rich_markup_mode=None, context_settings=WIDTH)


@app.callback(invoke_without_command=True)
def trimtab_(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; goes anywhere in the line.")
    ] = False,
) -> None:
    """Give it a model and a budget: it makes the model fit your machine, runs it, and proves what it cost."""
    if version:
        _run(["--version"])
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = bool(os.environ.get("TRIMTAB_DEBUG"))
    before = given[: given.index("--")] if "--" in given else given
    if "--debug" in before:
        given.remove("--debug")
        debug = True
    try:
        code = _run(given)
        sys.stdout.flush()  # a reader that has left shows here, and not after the exit
    except BrokenPipeError:
        code = BROKEN_PIPE
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        code = report(error, debug)
    if code == BROKEN_PIPE:
        # Whoever read our output has gone; the interpreter's own flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def report(error: Exception, debug: bool) -> int:
    """Print an error for people, on stderr; the exit code it asks for."""
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, TrimtabError):
        message, hint, code = error.message, error.hint, error.exit_code
    elif hasattr(error, "format_message"):  # what typer itself raises for a line it cannot read
        message, code = _lowered(error.format_message()), int(getattr(error, "exit_code", 2))
        path = getattr(getattr(error, "ctx", None), "command_path", "trimtab")
        hint = f"`{path} --help` shows what it takes"
    else:
        message = f"trimtab failed: {type(error).__name__}: {error}"
        hint, code = "run it again with --debug for the traceback, and report it", 1
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"\nhint: {hint}", file=sys.stderr)
    return code


def _run(arguments: list[str]) -> int:
    if arguments in (["--version"], ["-V"]):  # at once, without what typer needs to read a line
        print(f"trimtab {trimtab.__version__}")
        return 0
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="trimtab", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _lowered(message: str) -> str:
    """Typer's sentences as our messages: no capital, no full stop."""
    return message[:1].lower() + message[1:].rstrip(".")
