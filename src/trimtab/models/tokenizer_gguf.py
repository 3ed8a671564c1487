"""A tokenizer out of GGUF metadata: byte-level BPE (`gpt2`) or sentencepiece BPE (`llama`).

GGUF holds tokens, their kinds and either merges or scores; where the text is cut and whether the begin token
is added follows from names, by the rules of the program that defined the format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken, decoders, processors
from tokenizers import Tokenizer as Core
from tokenizers.models import BPE

from trimtab.errors import BadFile, Unsupported
from trimtab.models.fields import MOST, Fields, is_list
from trimtab.models.pretokenizers import pre_tokenizer, splitting
from trimtab.models.token_bytes import byte_level, sentencepiece
from trimtab.models.tokenizer import END_NAMES, Vocabulary, library_errors
from trimtab.models.tokenizer_spm import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, scored_core

if TYPE_CHECKING:
    from trimtab.formats.source import TensorSource


SPECIAL = {
    "bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id", "sep_token": "seperator_token_id", "mask_token": "mask_token_id",
}  # fmt: skip
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


def read_gguf(source: TensorSource) -> Vocabulary:
    """The vocabulary in a GGUF file."""
    fields = Fields(source.path, source.metadata, "tokenizer.ggml.")
    model = fields.text("model")
    if model not in ("gpt2", "llama"):
        raise Unsupported(
            f"tokenizer kind {model[:60]!r} in {source.path} is not supported", hint="known: gpt2, llama"
        )
    tokens = _tokens(fields)
    kinds = _kinds(fields, len(tokens))
    with library_errors(source.path, "tokenizer cannot be built"):
        vocab = _vocab(tokens, source.path)
        core, add_bos = (
            _byte_level(fields, vocab) if model == "gpt2" else _scored(fields, tokens, vocab, kinds)
        )

    # End tokens count as control tokens whatever the file calls them: some converters forget.
    hidden = {i for i, kind in enumerate(kinds) if kind in (CONTROL, UNKNOWN)}
    ends = {i for name in END_NAMES if (i := vocab.get(name)) is not None}
    ends |= {i for key in ENDS if (i := _special_id(fields, key, len(tokens))) is not None}
    hidden |= ends
    added = hidden | {i for i, kind in enumerate(kinds) if kind == USER_DEFINED}
    strip_right = "phi-3" in _name(source) or "phi3" in _name(source)
    keeps_space = {"<s>", "<unk>", "<|endoftext|>"}
    core.add_tokens([
        AddedToken(
            tokens[i],
            special=i in hidden,
            normalized=False,
            rstrip=strip_right and i in hidden and tokens[i] not in keeps_space,
        )
        for i in sorted(added)
    ])  # fmt: skip

    ids = {name: _special_id(fields, key, len(tokens)) for name, key in SPECIAL.items()}
    bos = ids["bos_token"]
    first = bos if fields.flag("add_bos_token", add_bos) else None
    last = ids["eos_token"] if fields.flag("add_eos_token", False) else None
    if first is not None or last is not None:
        core.post_processor = _framed(tokens, first, last)
    return Vocabulary(
        path=source.path,
        core=core,
        to_bytes=byte_level if model == "gpt2" else sentencepiece,
        bos_id=bos,
        eos_ids=frozenset(ends),
        hidden=frozenset(hidden),
        verbatim=frozenset(added if model == "gpt2" else hidden),
        strips_space=model == "llama" and fields.flag("add_space_prefix", True),
        names={name: tokens[i] for name, i in ids.items() if i is not None},
        templates=_templates(source),
    )


def _name(source: TensorSource) -> str:
    return str(source.metadata.get("general.name", "")).lower()


def _tokens(fields: Fields) -> list[str]:
    raw = fields.raw("tokens")
    if not is_list(raw) or not 0 < len(raw) <= MOST["vocab"]:
        raise fields.bad("tokens", type(raw).__name__, "a list of tokens")
    tokens = list(raw)
    if set(map(type, tokens)) != {str}:
        raise fields.bad("tokens", "a list of other things", "a list of text")
    if "" in tokens:
        tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
    return tokens


def _kinds(fields: Fields, count: int) -> Sequence[int]:
    raw = fields.raw("token_type")
    if raw is None:
        return [NORMAL] * count
    if not is_list(raw) or len(raw) != count:
        raise fields.bad("token_type", type(raw).__name__, f"a list of {count} numbers")
    return list(raw)


def _vocab(tokens: list[str], path: Path) -> dict[str, int]:
    vocab = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(vocab) != len(tokens):
        twice = next(token for i, token in enumerate(tokens) if vocab[token] != i)
        raise BadFile(path, f"token {twice[:40]!r} is in the vocabulary twice")
    return vocab


def _byte_level(fields: Fields, vocab: dict[str, int]) -> tuple[Core, bool]:
    raw = fields.raw("merges")
    if not is_list(raw):
        raise fields.bad("merges", type(raw).__name__, "a list of merges")
    # A merge is "left right"; the left part may itself begin with a space.
    merges = [(merge[: (cut := merge.find(" ", 1))], merge[cut + 1 :]) if merge[:1] == " " else
              tuple(merge.split(" ", 1)) for merge in raw]  # fmt: skip
    way = splitting(fields.text("pre", "default"))
    core = Core(BPE(vocab, merges, ignore_merges=way.whole_words))
    core.pre_tokenizer = pre_tokenizer(way)
    core.decoder = decoders.ByteLevel()
    return core, way.add_bos


def _scored(
    fields: Fields, tokens: list[str], vocab: dict[str, int], kinds: Sequence[int]
) -> tuple[Core, bool]:
    raw = fields.raw("scores")
    if not is_list(raw) or len(raw) != len(tokens):
        raise fields.bad("scores", type(raw).__name__, f"a list of {len(tokens)} numbers")
    scores = [float(score) for score in raw]
    if not all(map(math.isfinite, scores)):
        raise fields.bad("scores", "a list with infinities", "finite numbers")
    prefix = fields.flag("add_space_prefix", True)
    return scored_core(tokens, scores, kinds, vocab, space_prefix=prefix), True


def _framed(tokens: list[str], first: int | None, last: int | None) -> processors.TemplateProcessing:
    """The post-processor that puts the begin token first and the end token last."""
    used = {"begin": first, "end": last}
    # Its mini-language splits at spaces and colons, so the tokens go by plain names.
    held = [(name, i) for name, i in used.items() if i is not None]
    order = (["begin"] if first is not None else []) + ["$A"] + (["end"] if last is not None else [])
    special = [{"id": name, "ids": [i], "tokens": [tokens[i]]} for name, i in held]
    return processors.TemplateProcessing(single=" ".join(order), pair=None, special_tokens=special)


def _special_id(fields: Fields, key: str, count: int) -> int | None:
    """A special token's id; an id beyond the vocabulary is how some writers say there is none."""
    if fields.raw(key) is None:
        return None
    value = fields.count(key, (1 << 32) - 1, least=-1)
    return value if 0 <= value < count else None


def _templates(source: TensorSource) -> dict[str, str]:
    """Chat templates by name: `tokenizer.chat_template` and its named variants."""
    pattern = re.compile(r"tokenizer\.chat_template(?:\.(\w+))?")
    matches = ((pattern.fullmatch(key), value) for key, value in source.metadata.items())
    return {m[1] or "default": value for m, value in matches if m and isinstance(value, str)}
