"""Compiles grammars for one vocabulary, once each, and starts outputs on them.

The library is loaded, and its view of the vocabulary made, when the first grammar comes. Whatever a grammar
may ask for, compiling it ends within about a second and a bounded amount of memory; it happens in the thread
of the caller, never in the engine's. Everything the library objects to becomes a UsageError.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from trimtab.engine.budget import grammars_bytes
from trimtab.engine.constraint import Constraint, checked, library_panics
from trimtab.engine.grammar import Grammar
from trimtab.engine.json_schema import prepared
from trimtab.engine.landing import Closers, landing
from trimtab.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_KEPT = 16
"""Compiled grammars that are kept; a hostile one may hold some 20 MB."""
_LONGEST_LANDING = 512

# Far above what real schemas need; the library's own defaults let one grammar take seconds a token.
_LIMITS: dict[str, Any] = {
    "max_items_in_row": 1_000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 20_000,
    "max_lexer_states": 8_192,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}


class Vocabulary(Protocol):
    """What compiling needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_ids(self) -> AbstractSet[int]: ...
    @property
    def special_ids(self) -> AbstractSet[int]: ...
    def token_bytes(self, token_id: int, /) -> bytes: ...
    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Compiled:
    """A grammar at its beginning.

    Parameters
    ----------
    matcher : never consumes a token; outputs get copies
    landing : the shortest way found from the beginning to an end, in tokens; None when none was found
    """

    matcher: Any
    landing: list[int] | None


class Grammars:
    """The grammars of one model; safe to use from several threads.

    Parameters
    ----------
    vocab_size : of the model, which may have more logits than the tokenizer has tokens
    make_room : told once how many bytes the library will take, before it takes them
    """

    def __init__(
        self, tokenizer: Vocabulary, vocab_size: int, make_room: Callable[[int], None] | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._make_room = make_room
        self._vocab_size = vocab_size
        self._lock = threading.Lock()  # of the cache, held for moments
        self._compiling = threading.Lock()
        self._library: Any = None
        self._view: Any = None
        self._json_view: Any = None
        self._limits: Any = None
        self._closers: Closers | None = None
        self._kept: OrderedDict[Grammar, Compiled] = OrderedDict()

    def start(self, grammar: Grammar, left: int, *, forces: bool = True) -> Constraint:
        """A constraint at the beginning of a grammar, for an output of up to `left` tokens.

        Raises
        ------
        UsageError : the grammar is wrong, cannot be enforced, or costs too much
        """
        compiled = self.compile(grammar)
        closers = self._closers
        if closers is None:
            raise RuntimeError("a compiled grammar without a vocabulary")
        return Constraint(compiled.matcher.deep_copy(), closers, compiled.landing, left, forces=forces)

    def knows(self, grammar: Grammar) -> bool:
        """Whether `start` would have nothing to compile."""
        return grammar in self._kept

    def compile(self, grammar: Grammar) -> Compiled:
        """The compiled grammar, from the cache if it is there; one thread compiles at a time."""
        with self._lock:
            compiled = self._kept.get(grammar)
            if compiled is not None:
                self._kept.move_to_end(grammar)
                return compiled
        with self._compiling:
            compiled = self._kept.get(grammar) or self._compiled(grammar)
        with self._lock:
            self._kept[grammar] = compiled
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return compiled

    def _compiled(self, grammar: Grammar) -> Compiled:
        self._load()
        library, closers = self._library.LLMatcher, self._closers
        source = _source(grammar, self._library)
        with library_panics():
            view = self._json_view if grammar.kind.startswith("json") else self._view
            matcher = library(view, source, log_level=0, limits=self._limits)
            checked(matcher)
            # The first steps of an output are taken here, where what they cost delays nobody else.
            trial = matcher.deep_copy()
            trial.compute_bitmask()
            checked(trial)
            trial.compute_ff_tokens()
            checked(trial)
            found = None if closers is None else landing(trial, closers, _LONGEST_LANDING)
            checked(matcher)
        return Compiled(matcher, found)

    def _load(self) -> None:
        if self._view is not None:
            return
        if self._make_room is not None:
            self._make_room(grammars_bytes(self._vocab_size))
            self._make_room = None
        import llguidance

        ends = sorted(self._tokenizer.eos_ids)
        if not ends:
            raise UsageError("this model has no end-of-text token, which a grammar needs", param="grammar")
        words = [self._tokenizer.token_bytes(token) for token in range(self._tokenizer.vocab_size)]
        view = _View(self._tokenizer, words, ends)
        self._limits = llguidance.LLParserLimits(**_LIMITS)
        self._view = llguidance.LLTokenizer(cast(Any, view), n_vocab=self._vocab_size, eos_token=ends)
        # Sets of tokens that strings in JSON allow as a whole are found once, not at each mask.
        self._json_view = self._view.with_slices(llguidance.LLTokenizer.json_slices())
        self._closers = Closers(words, self._tokenizer.special_ids, ends[0])
        self._library = llguidance
        view.tokens = []  # it has its own copy by now


class _View:
    """The tokenizer as the library wants it."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Vocabulary, words: list[bytes], ends: list[int]) -> None:
        self.tokens = words
        self.eos_token_id = ends[0]
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted(tokenizer.special_ids)
        self._tokenizer = tokenizer
        self._by_bytes: dict[bytes, int] = {}

    def __call__(self, text: str) -> Sequence[int]:
        """Tokens of a text in the middle of an output."""
        tokens = self._tokenizer.encode(text, add_special=False, parse_special=False)
        wanted = text.encode()
        if b"".join(map(self._tokenizer.token_bytes, tokens)) == wanted:
            return tokens
        # Some tokenizers put a space before every text: then the longest tokens, from the left.
        return self._longest(wanted)

    def _longest(self, wanted: bytes) -> list[int]:
        if not self._by_bytes:
            special = set(self.special_token_ids)
            every = range(self._tokenizer.vocab_size)
            self._by_bytes = {self._tokenizer.token_bytes(t): t for t in every if t not in special}
        tokens, at = [], 0
        while at < len(wanted):
            for end in range(min(len(wanted), at + 32), at, -1):
                if (token := self._by_bytes.get(wanted[at:end])) is not None:
                    tokens.append(token)
                    break
            else:
                return []
            at = end
        return tokens


def _source(grammar: Grammar, package: Any) -> str:
    """The grammar in the library's own form."""
    library = package.LLMatcher
    try:
        if grammar.kind == "json_object":
            made: str = library.grammar_from_json_schema(prepared('{"type": "object"}'))
        elif grammar.kind == "json_schema":
            made = library.grammar_from_json_schema(prepared(grammar.text))
        elif grammar.kind == "regex":
            # A digit is one of ten; letters are those of all alphabets.
            made = library.grammar_from_lark(f"start: /{package.regex_to_lark(grammar.text, 'd')}/")
        elif grammar.kind == "choice":
            choices = [json.dumps(text, ensure_ascii=False) for text in json.loads(grammar.text)]
            made = library.grammar_from_lark("start: " + " | ".join(choices))
        else:
            made = library.grammar_from_lark(grammar.text)
    except ValueError as error:
        raise UsageError(f"the grammar cannot be read: {error}", param="grammar") from None
    return made
