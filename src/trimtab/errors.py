"""Every error a user can cause, in one small tree.

TrimtabError
├── UsageError          a wrong argument or setting            exit 2, HTTP 400
├── UnknownName         no such model, method, benchmark       exit 2, HTTP 404
├── BadFile             a model file that cannot be trusted    exit 3, HTTP 422
├── Unsupported         valid, but not something trimtab runs  exit 3, HTTP 422
├── DoesNotFit          a memory budget that is too small      exit 4, HTTP 507
├── TooLong             a prompt beyond the context            exit 2, HTTP 400
├── NotMeasured         a figure this machine does not have    exit 2, HTTP 409
├── Busy                a full queue                           exit 5, HTTP 429
└── Offline             a download that cannot happen here     exit 6, HTTP 503

The message says what was wrong and with which value; `hint` says what to do next. The command line and the
server only print them.
"""

from __future__ import annotations

from pathlib import Path


class TrimtabError(Exception):
    """Base of every error that is the input's fault, not the program's.

    Parameters
    ----------
    message : what was wrong, naming the value
    hint : the next step for the user; printed after a blank line
    param : the name of the offending option or field, when there is one
    """

    exit_code = 1
    http_status = 500

    def __init__(self, message: str, hint: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class UsageError(TrimtabError):
    exit_code = 2
    http_status = 400


class UnknownName(TrimtabError):
    exit_code = 2
    http_status = 404


class BadFile(TrimtabError):
    """A file that is damaged, hostile or not what its name says.

    Parameters
    ----------
    path : the file
    problem : what is wrong with it
    offset : byte position where the problem was noticed, when known
    """

    exit_code = 3
    http_status = 422

    def __init__(self, path: Path | str, problem: str, offset: int | None = None, hint: str = "") -> None:
        where = f"{path}" if offset is None else f"{path} at byte {offset}"
        super().__init__(f"{where}: {problem}", hint)
        self.path = Path(path)
        self.offset = offset


class Unsupported(TrimtabError):
    exit_code = 3
    http_status = 422


class DoesNotFit(TrimtabError):
    exit_code = 4
    http_status = 507


class TooLong(TrimtabError):
    exit_code = 2
    http_status = 400


class NotMeasured(TrimtabError):
    """A profile that is missing, stale, noisy or another machine's; the hint says what to measure."""

    exit_code = 2
    http_status = 409


class Busy(TrimtabError):
    """More was asked for than can be done now; `retry_after_s` says when there will be room, if known."""

    exit_code = 5
    http_status = 429
    retry_after_s: int | None = None


class Offline(TrimtabError):
    exit_code = 6
    http_status = 503
