"""`trimtab run`: a chat in the terminal, or one answer for a script."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from trimtab.cli.models import complete_model
from trimtab.cli.options import takes
from trimtab.cli.text import Verb, note, print_json, waiting
from trimtab.errors import UsageError
from trimtab.server.settings import ModelSettings

if TYPE_CHECKING:
    from trimtab.engine.sampling import SamplingParams
    from trimtab.server.served import Served

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab run                                  chat; /help shows what else it can do
trimtab run -p "Name three rivers"           one answer on stdout
echo "Name three rivers" | trimtab run       the same
trimtab run -p "Summarise:" -f notes.txt     a file after the prompt; - is stdin
trimtab run --json -p "Hi" | jq .text        text, token counts and times
trimtab run model.gguf --temperature 0       another model, always the likeliest word
"""


class RunSettings(ModelSettings):
    """The model, and how its answers are drawn."""

    system: str = Field("", description="instructions that stand before the conversation")
    temperature: float = Field(0.7, ge=0, le=100, description="0 always takes the likeliest token")
    top_p: float = Field(0.95, ge=0, le=1, description="keep the likeliest tokens up to this share")
    top_k: int = Field(0, ge=0, description="keep this many likeliest tokens; 0 keeps all")
    min_p: float = Field(0.0, ge=0, le=1, description="drop tokens less likely than this share of the best")
    repetition_penalty: float = Field(1.0, gt=0, le=100, description="above 1 avoids what was already said")
    max_tokens: int | None = Field(None, ge=1, description="longest answer; default: to the context's end")
    seed: int | None = Field(None, description="equal seeds give equal answers")

    def sampling(self) -> SamplingParams:
        """The engine's parameters for one answer."""
        from trimtab.engine.sampling import SamplingParams

        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed")
        return SamplingParams(**{name: getattr(self, name) for name in names})


@app.command(cls=Verb, epilog=EXAMPLES)
@takes(RunSettings, argument="model", complete=complete_model)
def run(
    settings: RunSettings,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="answer this and leave")] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="PATH", help="text after the prompt; - is stdin")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="continue the text as it is, without a chat template")
    ] = False,
    stats: Annotated[bool, typer.Option("--stats", help="after each answer, its speed on stderr")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object instead of text")] = False,
) -> None:
    """Chat with a model in the terminal, or answer one prompt.

    In a terminal it is a conversation: Ctrl-C stops an answer, Ctrl-D or /exit leaves. With -p, or with text
    on stdin, it answers once.
    """
    once = prompt is not None or file is not None or not sys.stdin.isatty()
    if not once and (as_json or raw):
        option = "--json" if as_json else "--raw"
        raise UsageError(f"{option} needs a prompt", "give one with -p, or on stdin", "prompt")
    text = _prompt(prompt, file) if once else ""

    from trimtab.cli.conversation import Conversation
    from trimtab.cli.progress import fetched
    from trimtab.cli.terminal import Terminal, line_reader
    from trimtab.server.opening import open_served

    fetched(settings.model)
    with waiting(f"loading {settings.model} …"):
        opened = open_served(settings)
    try:
        conversation = Conversation(opened.tokenizer, opened.engine.context, settings.system)
        if once:
            if not raw:
                conversation.say(text)
            tokens = opened.tokenizer.encode(text) if raw else conversation.prompt(settings.max_tokens)[0]
            _answer_once(opened, tokens, settings, stats=stats, as_json=as_json)
        else:
            note(f"{opened.name}, {conversation.context} tokens of context; /help for help, Ctrl-D to leave")
            terminal = Terminal(opened.engine, conversation, settings, read=line_reader(), stats=stats)
            raise typer.Exit(terminal.run())
    finally:
        opened.engine.close()


def _prompt(prompt: str | None, file: str | None) -> str:
    """The one prompt: -p, then the file, or what comes on stdin when neither is given."""
    parts = [] if prompt is None else [prompt]
    if file == "-" or (prompt is None and file is None):
        parts.append(sys.stdin.read())
    elif file is not None:
        try:
            parts.append(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise UsageError(f"cannot read {file}: {reason}", param="file") from error
    text = "\n\n".join(part.strip("\n") for part in parts)
    if not text.strip():
        raise UsageError("the prompt is empty", "give one with -p, or on stdin", "prompt")
    return text


def _answer_once(
    opened: Served, tokens: list[int], settings: RunSettings, *, stats: bool, as_json: bool
) -> None:
    from trimtab.cli.terminal import speed, stream

    params = settings.sampling()
    handle = opened.engine.submit(tokens, params)
    if as_json:
        completion = handle.result()
        print_json(
            {
                "model": opened.name,
                "text": completion.text,
                "finish_reason": completion.finish_reason,
                "prompt_tokens": completion.prompt_tokens,
                "completion_tokens": len(completion.token_ids),
                "first_token_s": round(completion.first_token_s, 6),
                "total_s": round(completion.total_s, 6),
            }
        )
    else:
        completion = stream(handle, sys.stdout)
        print("" if completion.text.endswith("\n") else "\n", end="", flush=True)
    if stats:
        note(speed(completion))
