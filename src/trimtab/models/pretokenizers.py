"""How byte-pair tokenizers cut text before merging, by the name a GGUF file stores for it.

GGUF keeps only a name (`tokenizer.ggml.pre`); the patterns are those of the models' own tokenizers. A wrong
pattern would still produce plausible tokens and quietly worse answers, so an unknown name is an error.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

from trimtab.errors import Unsupported

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s+(?!\S)|\s+"  # all but the last one before a word, or whatever is left
LINES = r"\s*[\r\n]+"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"  # a word takes the one character before it along
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"

GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{SPACES}"
LLAMA3 = rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1,3}}|{SIGNS}|{LINES}|{SPACES}"
QWEN2 = rf"{CONTRACTIONS}|{WORD}|\p{{N}}|{SIGNS}|{LINES}|{SPACES}"
QWEN35 = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{LINES}|{SPACES}"
)

# Words that end where the case rises: "camelCase" is two.
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
PATHS = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{LINES}|{SPACES}"
TEKKEN = rf"{CASED[0]}|{CASED[1]}|\p{{N}}|{PATHS}"
GPT4O = rf"{CASED[0]}{CONTRACTIONS}?|{CASED[1]}{CONTRACTIONS}?|\p{{N}}{{1,3}}|{PATHS}"

DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{LINES}|{SPACES}"
)


@dataclass(frozen=True, slots=True)
class Splitting:
    """One way to cut.

    Parameters
    ----------
    patterns : applied in order, each to the pieces that the one before left
    whole_words : a piece that is itself a token is not merged up from its bytes
    add_bos : whether the sequence starts with the begin token when the file does not say
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    add_bos: bool = False


_DEFAULT = Splitting((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))
_GPT2 = Splitting((GPT2,))
_DIGITS = Splitting((r"\p{N}", GPT2))
_LLAMA3 = Splitting((LLAMA3,), whole_words=True, add_bos=True)
_QWEN2 = Splitting((QWEN2,))
_GPT4O = Splitting((GPT4O,))

SPLITTINGS: dict[str, Splitting] = {
    "default": _DEFAULT,
    **dict.fromkeys(
        ("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "mpt", "olmo", "exaone4", "trillion", "jais"),
        _GPT2,
    ),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
        _DIGITS,
    ),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _LLAMA3
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), Splitting((LLAMA3,))),
    "glm4": Splitting((LLAMA3,), whole_words=True),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan"), _QWEN2),
    "qwen35": Splitting((QWEN35,)),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _GPT4O),
    "tekken": Splitting((TEKKEN,), whole_words=True, add_bos=True),
    "falcon": Splitting((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    "deepseek-coder": Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    **dict.fromkeys(
        ("deepseek-v3", "hunyuan-dense"), Splitting((r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3))
    ),
}


def splitting(name: str) -> Splitting:
    """The way of cutting that a GGUF file names.

    Raises
    ------
    Unsupported : no such name is known
    """
    if name not in SPLITTINGS:
        raise Unsupported(
            f"pre-tokenizer {name[:60]!r} is not supported", hint=f"known: {', '.join(SPLITTINGS)}"
        )
    return SPLITTINGS[name]


def pre_tokenizer(way: Splitting) -> pre_tokenizers.PreTokenizer:
    """The tokenizers-library object that cuts this way and then writes bytes as printable characters."""
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in way.patterns]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
