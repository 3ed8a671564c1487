"""A tokenizer out of a Hugging Face folder: `tokenizer.json` and the small files beside it.

A folder with only a sentencepiece `tokenizer.model` is read through the sentencepiece package where that is
installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Core

from trimtab.errors import BadFile, Unsupported
from trimtab.formats.folders import inside, read_bounded
from trimtab.models.token_bytes import byte_level, sentencepiece
from trimtab.models.tokenizer import END_NAMES, Vocabulary, library_errors

MOST_BYTES = 256 << 20  # tokenizer.json of the largest vocabularies is about 35 MB
MOST_SETTINGS_BYTES = 16 << 20
LONGEST_ID = 10  # digits; no vocabulary reaches a longer number

TEMPLATES = "additional_chat_templates"

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
# Ends of text that a folder must state itself; as names they would also stop base models of other families.
STATED_ENDS = frozenset({"<|endoftext|>", "<|end_of_text|>"})


def read_folder(folder: Path) -> Vocabulary:
    """The vocabulary of a Hugging Face folder."""
    settings = _json(folder, "tokenizer_config.json")
    path = folder / "tokenizer.json"
    if _exists(path):
        core = _load(inside(folder, path.name))
    elif _exists(folder / "tokenizer.model"):
        from trimtab.models.tokenizer_spm import load_spm

        core = load_spm(inside(folder, "tokenizer.model"), settings)
    else:
        raise BadFile(folder, "no tokenizer.json and no tokenizer.model")
    with library_errors(path, "not a sound tokenizer"):
        core.no_truncation()
        core.no_padding()
        _add_missing(core, settings, folder)

    added = core.get_added_tokens_decoder()
    hidden = {i for i, token in added.items() if token.special}
    names = {name: text for name in SPECIAL_NAMES if (text := _text(settings.get(name))) is not None}
    stated = [core.token_to_id(names["eos_token"])] if "eos_token" in names else []
    for file in ("generation_config.json", "config.json"):
        value = _json(folder, file).get("eos_token_id")
        stated += value if isinstance(value, list) else [value]
    ends = {i for i in stated if isinstance(i, int) and not isinstance(i, bool) and core.id_to_token(i)}
    ends |= {i for i in hidden if added[i].content in END_NAMES - STATED_ENDS}
    bos = core.token_to_id(names["bos_token"]) if "bos_token" in names else None
    to_bytes, strips_space = _decoding(core, path)
    return Vocabulary(
        path=folder,
        core=core,
        to_bytes=byte_level if to_bytes == "byte_level" else sentencepiece,
        bos_id=bos,
        eos_ids=frozenset(ends),
        hidden=frozenset(hidden),
        verbatim=frozenset(added if to_bytes == "byte_level" else hidden),
        strips_space=strips_space,
        names=names,
        templates=_templates(folder, settings),
    )


def _exists(path: Path) -> bool:
    """There is something of this name; a link that leads nowhere counts, and is refused when it is read."""
    return path.exists() or path.is_symlink()


def _load(path: Path) -> Core:
    data = read_bounded(path, MOST_BYTES)
    with library_errors(path, "not a readable tokenizer"):
        return Core.from_buffer(data)


def _json(folder: Path, name: str) -> dict[str, Any]:
    """The settings in a small JSON file; none when there is no such file.

    Not read as strictly as a model's own description: `model_max_length` is often a number of 31 digits.
    """
    if not _exists(folder / name):
        return {}
    path = inside(folder, name)
    try:
        content = json.loads(read_bounded(path, MOST_SETTINGS_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise BadFile(path, f"not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadFile(path, "not a JSON object")
    return content


def _text(token: Any) -> str | None:
    """A special token as settings write it: text, or an object with `content`."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _add_missing(core: Core, settings: Mapping[str, Any], folder: Path) -> None:
    """Add the tokens that only `tokenizer_config.json` lists, and check that they get their ids."""
    listed = settings.get("added_tokens_decoder")
    if not isinstance(listed, Mapping):
        return
    for key in sorted((key for key in listed if key.isdecimal() and len(key) <= LONGEST_ID), key=int):
        entry = listed[key]
        content = _text(entry)
        if not content or core.token_to_id(content) is not None:
            continue
        flags = {name: bool(entry.get(name)) for name in ("lstrip", "rstrip", "single_word", "special")}
        core.add_tokens([AddedToken(content, normalized=bool(entry.get("normalized")), **flags)])
        if core.token_to_id(content) != int(key):
            raise BadFile(
                folder / "tokenizer_config.json", f"added token {content[:40]!r} cannot have id {key}"
            )


def _decoding(core: Core, path: Path) -> tuple[str, bool]:
    """How token text stands for bytes, and whether decoding drops the first space."""
    steps = [json.loads(core.decoder.__getstate__())] if core.decoder is not None else []
    while any(step["type"] == "Sequence" for step in steps):
        steps = [inner for step in steps for inner in step.get("decoders", [step])]
    kinds = {step["type"]: step for step in steps}
    if "ByteLevel" in kinds:
        return "byte_level", False
    if "Metaspace" in kinds:
        return "sentencepiece", kinds["Metaspace"].get("prepend_scheme", "always") != "never"
    if "ByteFallback" in kinds or "Replace" in kinds:
        return "sentencepiece", kinds.get("Strip", {}).get("start", 0) > 0
    raise Unsupported(f"decoder {', '.join(kinds) or 'none'} in {path} is not supported")


def _templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; a `.jinja` file wins over the settings."""
    stated = settings.get("chat_template")
    templates: dict[str, str] = {}
    if isinstance(stated, str):
        templates["default"] = stated
    elif isinstance(stated, list):
        pairs = [entry for entry in stated if isinstance(entry, Mapping)]
        templates = {str(entry.get("name")): str(entry.get("template")) for entry in pairs}
    more = folder / TEMPLATES
    files = {"default": (folder / "chat_template.jinja", "")}
    files |= {path.stem: (path, TEMPLATES) for path in sorted(more.glob("*.jinja"))}
    for name, (found, below) in files.items():
        if not _exists(found):
            continue
        path = inside(folder, found.name, below)
        try:
            templates[name] = read_bounded(path, MOST_SETTINGS_BYTES).decode()
        except UnicodeDecodeError as error:
            raise BadFile(path, "not UTF-8 text", error.start) from error
    if not templates:  # as processors of vision models save it
        template = _json(folder, "chat_template.json").get("chat_template")
        templates = {"default": template} if isinstance(template, str) else {}
    return templates
