"""Filling in the middle: prompts for models that were taught what stands between a beginning and an end.

Such a model knows three control tokens for it. They have several spellings, and a vocabulary tells which one
is its own; a model without them cannot take a `suffix`.

References: Bavarian et al., Efficient Training of Language Models to Fill in the Middle, 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.server.errors import ApiError

if TYPE_CHECKING:
    from trimtab.models.tokenizer import Tokenizer

# What stands before the beginning, before the end, and before the middle, in the published vocabularies.
SPELLINGS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder and its relatives
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    ("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),  # Codestral
)


def infill_tokens(tokenizer: Tokenizer, prefix: list[int], suffix: str) -> list[int]:
    """Tokens of a prompt whose continuation is what stands between `prefix` and `suffix`.

    Raises
    ------
    ApiError : the model was not taught this
    """
    for spelling in SPELLINGS:
        marks = [mark for text in spelling if (mark := _control(tokenizer, text)) is not None]
        if len(marks) == len(spelling):
            before, after, middle = marks
            end = tokenizer.encode(suffix, add_special=False, parse_special=False)
            begin = prefix[: prefix[:1] == [tokenizer.bos_id]]
            return [*begin, before, *prefix[len(begin) :], after, *end, middle]
    raise ApiError.invalid(
        "suffix",
        "Unsupported parameter: 'suffix': this model has no tokens for filling in the middle.",
        "unsupported_parameter",
    )


def _control(tokenizer: Tokenizer, text: str) -> int | None:
    """The one token of this text, if there is one."""
    tokens = tokenizer.encode(text, add_special=False)
    return tokens[0] if len(tokens) == 1 else None
