"""The conversation in a terminal: reads lines, obeys /commands, streams answers.

Answers go to stdout and everything else to stderr, so that a redirected conversation holds answers only. The
engine and the conversation come in as arguments; this module knows keys, lines and files.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trimtab.cli.text import note
from trimtab.errors import TrimtabError, UsageError

if TYPE_CHECKING:
    from trimtab.cli.conversation import Conversation
    from trimtab.cli.run import RunSettings
    from trimtab.engine.engine import Engine
    from trimtab.engine.handle import Handle
    from trimtab.engine.output import Completion

HELP = """\
  /help                 this list
  /reset                forget the conversation, keep the system text
  /retry                drop the last answer and ask again
  /system [TEXT]        show or set the instructions before the conversation
  /params [NAME=VALUE]  show or set temperature, top_p, top_k, min_p, repetition_penalty, max_tokens, seed
  /save FILE            write the conversation: messages to a .json file, else text
  /exit                 leave; so does Ctrl-D

  Ctrl-C stops an answer. A line ending in \\ goes on in the next; \"\"\" begins and ends long text."""

COMMANDS = ("help", "reset", "retry", "system", "params", "save", "exit")
PARAMS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed")
PROMPT, MORE = ">>> ", "... "


def stream(handle: Handle, out: TextIO) -> Completion:
    """Write an answer as it comes.

    Raises
    ------
    KeyboardInterrupt : the user stopped it; the request is cancelled, `handle.result()` has what there is
    """
    try:
        for delta in handle:
            if delta.text:
                out.write(delta.text)
                out.flush()
    except BaseException:
        handle.cancel()
        raise
    return handle.result()


def speed(completion: Completion) -> str:
    """One line about an answer, for people."""
    after_first = completion.total_s - completion.first_token_s
    count = len(completion.token_ids)
    rate = f"{(count - 1) / after_first:.1f} tokens/s, " if count > 1 and after_first > 0 else ""
    cached = f", {completion.cached_tokens} from the cache" if completion.cached_tokens else ""
    first = f"first after {completion.first_token_s * 1000:.0f} ms"
    return f"{count} tokens, {rate}{first} ({completion.prompt_tokens} tokens of prompt{cached})"


class Terminal:
    """A conversation with somebody at a keyboard.

    Parameters
    ----------
    read : gives a line for a prompt; raises EOFError at the end, KeyboardInterrupt on Ctrl-C
    """

    def __init__(
        self,
        engine: Engine,
        conversation: Conversation,
        settings: RunSettings,
        *,
        read: Callable[[str], str] = input,
        stats: bool = False,
    ) -> None:
        self.engine = engine
        self.conversation = conversation
        self.settings = settings
        self.read = read
        self.stats = stats

    def run(self) -> int:
        """Talk until the user leaves; the exit code."""
        warned = False
        while True:
            try:
                line = self._line()
                warned = False
                if line == "/exit":
                    return 0
                self._take(line)
            except EOFError:
                note("")
                return 0
            except KeyboardInterrupt:
                note("")
                if warned:
                    return 130
                warned = True
                note("Ctrl-C again, Ctrl-D or /exit to leave")
            except TrimtabError as error:
                note(f"error: {error}")

    def _take(self, line: str) -> None:
        if line.startswith("/"):
            name, _, rest = line[1:].partition(" ")
            self._obey(name, rest.strip())
        elif line.strip():
            self.conversation.say(line)
            self._answer()

    def _line(self) -> str:
        line = self.read(PROMPT)
        if line.lstrip().startswith('"""'):
            text = line.lstrip()[3:]
            while '"""' not in text:
                text += "\n" + self.read(MORE)
            return text.partition('"""')[0]
        while line.endswith("\\"):
            line = line[:-1] + "\n" + self.read(MORE)
        return line

    def _answer(self) -> None:
        settings, conversation = self.settings, self.conversation
        try:
            tokens, dropped = conversation.prompt(settings.max_tokens)
            if dropped:
                note(f"the oldest {dropped} turns were dropped to stay inside {conversation.context} tokens")
            handle = self.engine.submit(tokens, settings.sampling())
        except BaseException:
            conversation.unsay()
            raise
        try:
            with unseen_typing():
                completion = stream(handle, sys.stdout)
        except KeyboardInterrupt:
            completion = handle.result()
            sys.stdout.write(" …")
        except TrimtabError:
            conversation.unsay()
            raise
        sys.stdout.write("\n\n")
        sys.stdout.flush()
        conversation.answer(completion.text)
        if completion.finish_reason == "length":
            note("the answer ended at its limit" if settings.max_tokens else "the context is full; /reset")
        if self.stats:
            note(speed(completion))

    def _obey(self, name: str, rest: str) -> None:
        if name == "help":
            note(HELP)
        elif name == "reset":
            self.conversation.turns.clear()
            note("the conversation is forgotten")
        elif name == "retry":
            question = self.conversation.unsay()
            if question is None:
                raise UsageError("there is nothing to ask again")
            self.conversation.say(question)
            self._answer()
        elif name == "system":
            if rest:
                self.conversation.system = rest
            note(f"system: {self.conversation.system or '(none)'}")
        elif name == "params":
            self._set(rest)
        elif name == "save":
            if not rest:
                raise UsageError("/save needs a file name", "/save talk.json, or /save talk.txt")
            self.conversation.save(Path(rest).expanduser())
            note(f"saved to {rest}")
        else:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            raise UsageError(
                f"no command /{name}", f"did you mean /{near[0]}?" if near else "/help shows them"
            )

    def _set(self, text: str) -> None:
        from trimtab.cli.options import checked
        from trimtab.cli.run import RunSettings

        values = self.settings.model_dump()
        for pair in text.split():
            name, equals, value = pair.partition("=")
            if name not in PARAMS or not equals:
                raise UsageError(f"/params {pair}", f"write NAME=VALUE, with one of {', '.join(PARAMS)}")
            values[name] = None if value == "none" else value
        self.settings = checked(RunSettings, values)
        note("  ".join(f"{name}={getattr(self.settings, name)}" for name in PARAMS))


@contextmanager
def unseen_typing() -> Iterator[None]:
    """Keys typed while an answer is written show up at the next prompt, not in the middle of the answer."""
    if not sys.stdin.isatty() or find_spec("termios") is None:
        yield
        return
    import termios

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    quiet = list(before)
    quiet[3] &= ~termios.ECHO  # the local flags; Ctrl-C still works
    termios.tcsetattr(keyboard, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSANOW, before)


def line_reader() -> Callable[[str], str]:
    """`input` with line editing, completion of /commands, and a history that survives the program."""
    if not sys.stdout.isatty():
        return _plain_line
    try:
        import readline
    except ImportError:  # not built into every Python
        return input
    from platformdirs import user_state_path

    path = user_state_path("trimtab", appauthor=False) / "history"

    def complete(text: str, state: int) -> str | None:
        line = readline.get_line_buffer()
        found = (
            [f"/{name}" for name in COMMANDS if f"/{name}".startswith(line)] if line.startswith("/") else []
        )
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
    readline.set_history_length(1000)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.read_history_file(path)
    except OSError:  # a history that cannot be kept is no reason not to talk
        return input

    def read(prompt: str) -> str:
        line = input(prompt)
        with suppress(OSError):
            readline.append_history_file(1, path)
        return line

    return read


def _plain_line(prompt: str) -> str:
    """A line when stdout is redirected: the prompt must not end up among the answers."""
    print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")
