"""Text to token ids and back, exactly, also one token at a time.

The merging itself is the `tokenizers` library's; reading a vocabulary from GGUF metadata or from a Hugging
Face folder is `tokenizer_gguf` and `tokenizer_hf`. Decoding is done here on bytes, so that a stream of tokens
and the whole sequence give the same text. Nothing here knows which ids the model can produce.
"""

from __future__ import annotations

import codecs
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Core

from trimtab.errors import BadFile, TrimtabError, UsageError

if TYPE_CHECKING:
    from trimtab.formats.source import TensorSource
    from trimtab.models.chat import ChatTemplate

# Tokens that end a turn or a text, by the names they have in the published vocabularies. Files often state
# only one end token although the model was taught to close its turn with another.
END_NAMES = frozenset({
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<EOT>", "<end_of_utterance>", "<｜end▁of▁sentence｜>",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a reader found beside the merges.

    Parameters
    ----------
    core : the library's tokenizer, its post-processor adding the begin and end tokens
    to_bytes : the bytes that a token's text stands for
    hidden : control tokens; decoding leaves them out unless asked
    verbatim : tokens whose text is what it looks like
    strips_space : the first space of a decoded text was put there by the encoder
    names : what templates call the special tokens: `bos_token` -> text
    templates : chat templates by name; `default` is the usual one
    """

    path: Path
    core: Core
    to_bytes: Callable[[str], bytes]
    bos_id: int | None
    eos_ids: frozenset[int]
    hidden: frozenset[int]
    verbatim: frozenset[int]
    strips_space: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def library_errors(path: Path, problem: str) -> Iterator[None]:
    """Turn whatever the library raises over a bad vocabulary into an error that names the file.

    Its errors have no type of their own, and its panics are not even an `Exception`.
    """
    try:
        yield
    except (TrimtabError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise BadFile(path, f"{problem}: {str(error)[:200]}") from error


class Tokenizer:
    """One model's tokenizer and chat template; safe to use from several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._core = vocabulary.core
        self._plain: Core | None = None
        self._chat: dict[str, ChatTemplate] = {}
        self._lock = threading.Lock()
        self.vocab_size: int = vocabulary.core.get_vocab_size(with_added_tokens=True)
        self.bos_id = vocabulary.bos_id
        self.eos_ids = vocabulary.eos_ids
        self.special_ids = vocabulary.hidden

    @property
    def chat_template(self) -> str | None:
        """The source of the usual chat template, or None for a model without one."""
        return self._vocabulary.templates.get("default")

    @property
    def special_names(self) -> Mapping[str, str]:
        """What the model's files call its special tokens: `bos_token` -> text, `eos_token` -> text."""
        return self._vocabulary.names

    @property
    def tool_template(self) -> str | None:
        """The source of the chat template for conversations with functions: its own, or the usual one."""
        return self._vocabulary.templates.get("tool_use", self.chat_template)

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text.

        Parameters
        ----------
        add_special : put the begin token first where the model wants one; a rendered chat already has it
        parse_special : read `<|im_end|>` and the like as control tokens, not as their characters

        Raises
        ------
        UsageError : the text holds a lone surrogate, which no encoding of text can carry
        """
        core = self._core
        with library_errors(self._vocabulary.path, "its tokenizer cannot encode a text"):
            try:
                if not parse_special:
                    bare = core.encode(text, add_special_tokens=False).ids
                    core = core if self._vocabulary.hidden.isdisjoint(bare) else self._without_control()
                ids: list[int] = core.encode(text, add_special_tokens=add_special).ids
            except (TypeError, UnicodeEncodeError) as error:
                raise UsageError(f"text is not valid Unicode: {error}") from error
        return ids

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """Token ids of a rendered conversation; takes what `chat` takes."""
        return self.encode(self.chat(messages, **options), add_special=False)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, continues: bool = False) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD.

        Parameters
        ----------
        skip_special : leave control tokens out
        continues : the ids follow other text, so a leading space is part of it
        """
        stream = self.stream(skip_special=skip_special, continues=continues)
        return "".join([stream.push(token_id) for token_id in ids]) + stream.flush()

    def stream(self, *, skip_special: bool = True, continues: bool = False) -> TextStream:
        """A decoder for ids that come one at a time; its pieces join to exactly `decode` of them all."""
        strips = self._vocabulary.strips_space and not continues
        return TextStream(self.token_bytes, self._vocabulary.hidden if skip_special else frozenset(), strips)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token stands for; empty for an id outside the vocabulary."""
        text = self._core.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None
        if text is None:
            return b""
        return text.encode() if token_id in self._vocabulary.verbatim else self._vocabulary.to_bytes(text)

    def token_text(self, token_id: int) -> str:
        """One token's text on its own, for logprobs and displays; half a character shows as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt of a conversation, by the model's own template.

        Parameters
        ----------
        messages : each a mapping with `role` and `content`
        add_generation_prompt : end with the opening of the assistant's turn
        tools : JSON schemas of functions the model may call
        variables : further names the template reads, such as `enable_thinking`

        Raises
        ------
        UsageError : the model has no template, or its template refuses these messages
        BadFile : the template is broken or hostile
        """
        template = self._template("tool_use" if tools else "default")
        return template.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables
        )

    def _template(self, name: str) -> ChatTemplate:
        from trimtab.models.chat import (
            ChatTemplate,
        )  # jinja2 costs 20 ms that a completion server never needs

        templates = self._vocabulary.templates
        name = name if name in templates else "default"
        if name not in templates:
            raise UsageError(
                f"{self._vocabulary.path} has no chat template",
                hint="use the completions endpoint or `generate` with a plain prompt",
            )
        with self._lock:
            if name not in self._chat:
                self._chat[name] = ChatTemplate(
                    templates[name], self._vocabulary.names, self._vocabulary.path
                )
            return self._chat[name]

    def _without_control(self) -> Core:
        """A second core that reads control tokens as text; made when a text first needs it."""
        with self._lock:
            if self._plain is None:
                self._plain = Core.from_str(self._core.to_str())
                self._plain.encode_special_tokens = True
            return self._plain


class TextStream:
    """Decodes tokens one at a time and holds back the start of a character until its end has come.

    Parameters
    ----------
    token_bytes : bytes of one token
    skipped : ids that give no text
    strips_space : drop one leading space of the whole text
    """

    __slots__ = ("_skipped", "_strips_space", "_token_bytes", "_utf8")

    def __init__(
        self, token_bytes: Callable[[int], bytes], skipped: frozenset[int], strips_space: bool
    ) -> None:
        self._token_bytes = token_bytes
        self._skipped = skipped
        self._strips_space = strips_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that became complete with this token; empty while a character is unfinished."""
        if token_id in self._skipped:
            return ""
        piece = self._token_bytes(token_id)
        if self._strips_space and piece:
            self._strips_space = False
            piece = piece.removeprefix(b" ")
        return self._utf8.decode(piece)

    def flush(self) -> str:
        """What was held back, as U+FFFD; call it once, at the end."""
        return self._utf8.decode(b"", True)


def load_tokenizer(source: TensorSource) -> Tokenizer:
    """Read the tokenizer and chat template that belong to a model.

    Raises
    ------
    BadFile : the vocabulary is missing, damaged or contradicts itself
    Unsupported : a sound tokenizer of a kind that trimtab does not read
    """
    # Imported when asked for: they import this module.
    if source.kind == "gguf":
        from trimtab.models.tokenizer_gguf import read_gguf

        return Tokenizer(read_gguf(source))
    from trimtab.models.tokenizer_hf import read_folder

    return Tokenizer(read_folder(source.path))
