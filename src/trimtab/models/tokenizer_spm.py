"""Sentencepiece BPE: a vocabulary with scores instead of merges.

GGUF files of the `llama` kind and a folder's `tokenizer.model` are such.
The library's BPE knows only ranked merges, so the ranks are worked out from the scores once, at load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, normalizers, processors
from tokenizers import Tokenizer as Core
from tokenizers.models import BPE

from trimtab.errors import BadFile, Unsupported
from trimtab.formats.folders import read_bounded
from trimtab.models.token_bytes import SPACE_MARK
from trimtab.models.tokenizer import library_errors

MOST_BYTES = 64 << 20  # the largest published models have about 5 MB
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # token kinds; sentencepiece and GGUF number them alike
LONGEST_TOKEN = 4_096  # characters; bounds the work of finding merges
BPE_MODEL = 2  # sentencepiece's number for this kind of model


def scored_core(
    tokens: Sequence[str],
    scores: Sequence[float],
    kinds: Sequence[int],
    vocab: Mapping[str, int],
    *,
    space_prefix: bool,
) -> Core:
    """The library's tokenizer for a scored vocabulary, without its added tokens."""
    usable = (i for i, kind in enumerate(kinds) if kind in (NORMAL, USER_DEFINED))
    unknown = next((tokens[i] for i, kind in enumerate(kinds) if kind == UNKNOWN), None)
    merges = merges_from_scores(tokens, scores, vocab, usable)
    has_bytes = "<0x00>" in vocab
    core = Core(BPE(dict(vocab), merges, unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes))
    marks: list[Any] = [normalizers.Replace(" ", SPACE_MARK)]
    steps: list[Any] = [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if space_prefix:
        marks.insert(0, normalizers.Prepend(SPACE_MARK))
        steps.append(decoders.Strip(" ", 1, 0))
    core.normalizer = normalizers.Sequence(marks)
    core.decoder = decoders.Sequence(steps)
    return core


def merges_from_scores(
    tokens: Sequence[str], scores: Sequence[float], vocab: Mapping[str, int], usable: Iterable[int]
) -> list[tuple[str, str]]:
    """The merge list that makes ranked BPE act like sentencepiece's, which joins by the result's score.

    Every way to put a token together from two others is a merge; the better the token's score, the earlier.
    """
    found: list[tuple[float, int, int, str, str]] = []
    for i in usable:
        token, score = tokens[i], -scores[i]
        if len(token) > LONGEST_TOKEN:
            continue
        for cut in range(1, len(token)):
            left = vocab.get(token[:cut])
            if left is None:
                continue
            right = vocab.get(token[cut:])
            if right is not None:
                found.append((score, left, right, token[:cut], token[cut:]))
    found.sort()
    return [(left, right) for *_, left, right in found]


def load_spm(path: Path, settings: Mapping[str, Any]) -> Core:
    """Read a folder's `tokenizer.model`.

    Raises
    ------
    Unsupported : the sentencepiece package is not installed, or the model is not BPE
    """
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise Unsupported(
            f"{path} can only be read with the sentencepiece and protobuf packages ({error})",
            hint="install both, or save the folder again with a tokenizer.json",
        ) from error
    pb2: Any = sentencepiece_model_pb2  # generated at import, so type checkers see nothing in it
    model = pb2.ModelProto()
    data = read_bounded(path, MOST_BYTES)
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError, which differs between its versions
        raise BadFile(path, f"not a sentencepiece model: {error}") from error
    if model.trainer_spec.model_type != BPE_MODEL:
        raise Unsupported(f"{path} is not a BPE model; only those are supported")
    kinds = [piece.type for piece in model.pieces]
    # Tokens added by name are looked for before spaces are marked.
    tokens = [
        piece.piece.replace(SPACE_MARK, " ") if piece.type == USER_DEFINED else piece.piece
        for piece in model.pieces
    ]
    vocab = {token: i for i, token in enumerate(tokens)}
    if not tokens or len(vocab) != len(tokens):
        raise BadFile(path, "its vocabulary is empty or names a token twice")
    scores = [piece.score for piece in model.pieces]
    prefix = bool(settings.get("add_prefix_space", model.normalizer_spec.add_dummy_prefix))
    with library_errors(path, "tokenizer cannot be built"):
        core = scored_core(tokens, scores, kinds, vocab, space_prefix=prefix)
    added = [
        (t, kind) for t, kind in zip(tokens, kinds, strict=True) if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    core.add_tokens(
        [AddedToken(token, special=kind != USER_DEFINED, normalized=False) for token, kind in added]
    )
    begin = model.trainer_spec.bos_piece
    if settings.get("add_bos_token", True) and begin in vocab:
        core.post_processor = processors.TemplateProcessing(
            single="begin $A",
            pair=None,
            special_tokens=[{"id": "begin", "ids": [vocab[begin]], "tokens": [begin]}],
        )
    return core
