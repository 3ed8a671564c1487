"""Chat templates: a conversation in, the prompt text out, by the Jinja template that came with the model.

The template is untrusted; `sandbox` keeps it inside its bounds and this module turns whatever goes wrong into
an error that says whose fault it was: the file's (`BadFile`) or the messages' (`UsageError`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError

from trimtab.errors import BadFile, UsageError
from trimtab.models.meter import Exhausted, Meter
from trimtab.models.sandbox import Sandbox

LONGEST_TEMPLATE = 256 << 10  # characters; the longest published ones have about 20,000
LONGEST_DATE_FORMAT = 256


class Refused(Exception):
    """The template itself called `raise_exception`."""


class ChatTemplate:
    """One compiled chat template; renderings take turns.

    Parameters
    ----------
    source : Jinja text
    names : the special tokens by the names templates use
    path : the file it came from, for errors
    now : the clock behind `strftime_now`

    Raises
    ------
    BadFile : the text is no template, or uses what a chat template may not
    """

    def __init__(
        self, source: str, names: Mapping[str, str], path: Path, *, now: Callable[[], datetime] = datetime.now
    ) -> None:
        self._names, self._path, self._now = dict(names), path, now
        self._lock = threading.Lock()
        self._sandbox = Sandbox()
        self._sandbox.allow("raise_exception", _refuse)
        self._sandbox.allow("strftime_now", self._strftime_now)
        if len(source) > LONGEST_TEMPLATE:
            raise BadFile(path, f"chat template of {len(source):,} characters; at most {LONGEST_TEMPLATE:,}")
        try:
            self._template = self._sandbox.from_string(source)
        except TemplateSyntaxError as error:
            raise self._bad(f"line {error.lineno}: {error.message}") from error
        except TemplateError as error:
            raise self._bad(str(error)) from error
        except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as error:
            raise self._bad(f"cannot be compiled ({type(error).__name__}: {error})") from error

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """The prompt for a conversation.

        Parameters
        ----------
        messages : each with `role` and `content`
        variables : further names for the template: `tools`, `add_generation_prompt`, ...

        Raises
        ------
        UsageError : the template refuses these messages, or cannot work with them
        BadFile : the template does something that a chat template may not
        """
        scope = self._names | variables | {"messages": messages}
        with self._lock:
            meter = Meter()
            try:
                meter.admit(scope)
            except Exhausted as error:
                raise UsageError(f"the conversation {error}") from error
            self._sandbox.meter = meter
            try:
                return self._template.render(scope)
            except Refused as error:
                raise UsageError(f"the model's chat template refuses these messages: {error}") from error
            except SecurityError as error:
                raise self._bad(f"reaches for what it may not use: {error}") from error
            except Exhausted as error:
                raise self._bad(str(error)) from error
            except (RecursionError, MemoryError) as error:
                raise self._bad(f"recurses or grows without end ({type(error).__name__})") from error
            except Exception as error:  # whatever an expression over the messages may raise
                detail = f"{type(error).__name__}: {error}"[:300]
                raise UsageError(
                    f"the chat template of {self._path} cannot use these messages: {detail}"
                ) from error

    def _strftime_now(self, pattern: str) -> str:
        if len(pattern) > LONGEST_DATE_FORMAT:
            raise Exhausted(f"formats a date with more than {LONGEST_DATE_FORMAT} characters")
        return self._now().strftime(pattern)

    def _bad(self, problem: str) -> BadFile:
        return BadFile(self._path, f"chat template {problem}", hint="use a file from a source you trust")


def _refuse(message: object = "") -> NoReturn:
    raise Refused(str(message)[:1_000])
