"""A multiple-choice task whose text every machine has: which word comes next in Python's documentation?

Items are drawn by a seed from the docstrings of the standard library: the words before a gap, the word that
stood there, and three others that are about as frequent in the same text. A model chooses by the likelier
first token. The score says what quantisation takes from the SAME model; its level says little about a model.
Items depend on Python's version, so a report carries the hash of what was asked.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trimtab.errors import Unsupported

SEED = 20_240_319
CHOICES = 4
CONTEXT_WORDS = 20
_RANKS_APART = 150
"""Other words are at most so many places away in the list of words by frequency."""

# Alphabetical, without anything that acts when imported or needs a display.
_MODULES = (
    "abc", "argparse", "ast", "asyncio", "base64", "bisect", "bz2", "calendar", "cmd", "codecs",
    "collections", "concurrent.futures", "configparser", "contextlib", "copy", "csv", "ctypes",
    "dataclasses", "datetime", "decimal", "difflib", "dis", "doctest", "email", "email.message", "enum",
    "filecmp", "fileinput", "fnmatch", "fractions", "ftplib", "functools", "gettext", "glob", "gzip",
    "hashlib", "heapq", "hmac", "html", "html.parser", "http.client", "http.cookiejar", "http.server",
    "imaplib", "importlib.util", "inspect", "io", "ipaddress", "itertools", "json", "keyword",
    "linecache", "locale", "logging", "logging.handlers", "lzma", "mailbox", "math", "mimetypes", "mmap",
    "multiprocessing.pool", "numbers", "operator", "optparse", "os", "pathlib", "pdb", "pickle",
    "pickletools", "pkgutil", "platform", "poplib", "pprint", "profile", "pstats", "queue", "random",
    "re", "sched", "secrets", "selectors", "shelve", "shlex", "shutil", "signal", "smtplib", "socket",
    "socketserver", "sqlite3", "ssl", "stat", "statistics", "string", "struct", "subprocess", "sys",
    "tarfile", "tempfile", "textwrap", "threading", "time", "timeit", "tokenize", "trace", "traceback",
    "tracemalloc", "types", "typing", "unittest.case", "unittest.mock", "urllib.parse", "urllib.request",
    "uuid", "warnings", "wave", "weakref", "xml.dom.minidom", "xml.etree.ElementTree", "xml.sax.saxutils",
    "xmlrpc.client", "zipfile", "zlib",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """One question; `words[answer]` is the word that stood there."""

    context: str
    words: tuple[str, ...]
    answer: int


def documentation() -> list[str]:
    """Paragraphs of the standard library's docstrings, each once, in a fixed order."""
    seen: dict[str, None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these modules are deprecated
        for name in _MODULES:
            try:
                module = importlib.import_module(name)
            except ImportError:
                continue
            for text in _docstrings(module):
                for paragraph in re.split(r"\n\s*\n", text):
                    if ">>>" not in paragraph and "::" not in paragraph:
                        seen.setdefault(" ".join(paragraph.split()))
    return list(seen)


def items(number: int, first_token: Callable[[str], int], seed: int = SEED) -> list[Item]:
    """Draw items whose four words begin with four different tokens.

    Parameters
    ----------
    first_token : id of the first token of a word that stands behind a space

    Raises
    ------
    Unsupported : this Python carries too little documentation, as under `python -OO`
    """
    draw = random.Random(seed)
    paragraphs = documentation()
    counts = Counter(word for text in paragraphs for word in text.split() if _usable(word))
    ranked = [word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]
    place = {word: index for index, word in enumerate(ranked)}
    gaps = []
    for text in paragraphs:
        words = text.split()
        gaps += [(words, at) for at in range(CONTEXT_WORDS, len(words)) if _usable(words[at])]
    draw.shuffle(gaps)
    found: list[Item] = []
    for words, at in gaps:
        if len(found) == number:
            break
        rank = place[words[at]]
        near = ranked[max(0, rank - _RANKS_APART) : rank + _RANKS_APART]
        chosen, tokens = [words[at]], {first_token(words[at])}
        for other in draw.sample(near, min(len(near), 30)):
            if len(chosen) < CHOICES and (token := first_token(other)) not in tokens:
                chosen.append(other)
                tokens.add(token)
        if len(chosen) == CHOICES:
            draw.shuffle(chosen)
            context = " ".join(words[at - CONTEXT_WORDS : at])
            found.append(Item(context, tuple(chosen), chosen.index(words[at])))
    if len(found) < number:
        raise Unsupported(f"this Python's documentation gives {len(found)} items, {number} are wanted")
    return found


def digest(questions: Sequence[Item]) -> str:
    """A hash of what was asked, to tell whether two scores may be compared."""
    text = "\n".join(f"{item.context}\t{' '.join(item.words)}\t{item.answer}" for item in questions)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _usable(word: str) -> bool:
    return len(word) >= 4 and word.isascii() and word.isalpha() and word.islower()


def _docstrings(module: object) -> Iterator[str]:
    yield inspect.getdoc(module) or ""
    for _, member in sorted(vars(module).items()):
        if getattr(member, "__module__", None) != getattr(module, "__name__", ""):
            continue
        yield inspect.getdoc(member) or ""
        if inspect.isclass(member):
            for _, method in sorted(vars(member).items()):
                if inspect.isroutine(method):
                    yield getattr(method, "__doc__", None) or ""
