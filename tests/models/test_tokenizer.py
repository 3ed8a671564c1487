"""Tokenizers against llama.cpp (golden), sentencepiece and Transformers; streams of tokens; bad input."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_source import FakeSource
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import BadFile, TrimtabError, Unsupported, UsageError
from trimtab.formats.source import open_source
from trimtab.models.pretokenizers import SPLITTINGS, pre_tokenizer, splitting
from trimtab.models.token_bytes import ALPHABET, byte_level, sentencepiece
from trimtab.models.tokenizer import Tokenizer, load_tokenizer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "pretokenizers.json").read_text("utf-8"))

TEXTS = [
    "Hello world", " two  spaces ", "", "\n\n\t x\r\n", "It's we'll DON'T", "日本語、한국어 中文。",
    "🙂👩\u200d👧 e\u0301 ﬁ", "def f(x):\n    return x**2  # squared", "<|im_start|>user\nhi<|im_end|>",
    "naïve Straße абв עברית हिन्दी", "a\u00a0b\u2028c\u200b", "\u0000\u0007", "camelCase snake_case",
    "https://a.b/c?d=e&f#g",
]  # fmt: skip


@pytest.fixture(scope="module")
def metadata(default_model: Path) -> dict[str, Any]:
    """The default model's metadata, its arrays decoded once."""
    with open_source(default_model) as source:
        return dict(source.metadata)


@pytest.fixture(scope="module")
def default(metadata: dict[str, Any]) -> Tokenizer:
    return load_tokenizer(FakeSource(metadata))


@pytest.mark.parametrize("name", GOLDEN["ids"])
def test_byte_level_ids_equal_llama_cpp(metadata: dict[str, Any], name: str) -> None:
    changed = {key: value for key, value in metadata.items() if not key.endswith("add_bos_token")}
    tokenizer = load_tokenizer(FakeSource(changed | {"tokenizer.ggml.pre": name}))
    for text, ids in zip(GOLDEN["texts"], GOLDEN["ids"][name], strict=True):
        assert tokenizer.encode(text) == ids, repr(text)


def test_control_tokens_as_text_equal_llama_cpp(default: Tokenizer) -> None:
    for text, ids in zip(GOLDEN["texts"], GOLDEN["unparsed"], strict=True):
        assert default.encode(text, add_special=False, parse_special=False) == ids, repr(text)


def test_every_known_way_of_cutting_loads() -> None:
    for way in set(SPLITTINGS.values()):
        pieces = pre_tokenizer(way).pre_tokenize_str("Ab's 1234 日本 !\r\n\n  x")
        assert "".join(byte_level(piece).decode() for piece, _ in pieces) == "Ab's 1234 日本 !\r\n\n  x"
    with pytest.raises(Unsupported, match="wonderful"):
        splitting("wonderful")


def test_default_tokenizer_equals_transformers(default: Tokenizer, default_model: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(default_model.parent, gguf_file=default_model.name)
    for text in TEXTS:
        assert not re.search(r"\s\w*\d", text)  # Transformers leaves out the splitting of digits for GGUF
        ids = default.encode(text, add_special=False)
        assert ids == theirs(text, add_special_tokens=False)["input_ids"], repr(text)
        assert default.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert default.decode(ids, skip_special=False) == theirs.decode(ids)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    for prompt in (True, False):
        rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        assert default.chat(messages, add_generation_prompt=prompt) == rendered
        ids = default.encode_chat(messages, add_generation_prompt=prompt)
        assert ids == theirs(rendered, add_special_tokens=False)["input_ids"]


def test_default_tokenizer_facts(default: Tokenizer) -> None:
    assert (default.vocab_size, default.bos_id, default.eos_ids) == (49_152, 1, {0, 2})
    assert default.special_ids >= {0, 1, 2}
    assert default.encode("Hi")[:1] != [1]  # this model wants no begin token
    assert default.chat_template is not None
    assert default.chat_template.startswith("{% for")
    assert default.token_text(2) == "<|im_end|>"
    assert default.token_bytes(default.encode(" the")[0]) == b" the"
    assert default.token_bytes(49_152) == default.token_bytes(-1) == default.token_bytes(1 << 40) == b""


def test_text_that_is_no_unicode_is_refused(default: Tokenizer) -> None:
    with pytest.raises(UsageError, match="Unicode"):
        default.encode("\ud800")


@given(data=st.data())
def test_streams_join_to_the_whole(default: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, 300) | st.integers(-2, 49_200), max_size=40))
    skip = data.draw(st.booleans())
    stream = default.stream(skip_special=skip)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.flush() == default.decode(ids, skip_special=skip)
    raw = b"".join(default.token_bytes(i) for i in ids if not skip or i not in default.special_ids)
    assert default.decode(ids, skip_special=skip) == raw.decode("utf-8", "replace")


@given(
    text=st.text(
        st.characters(exclude_categories=["Cs"], max_codepoint=0x2FFF) | st.sampled_from("🙂𝔘日é \n")
    )
)
def test_text_survives_the_way_there_and_back(default: Tokenizer, text: str) -> None:
    ids = default.encode(text, add_special=False)
    # This vocabulary has no token for a few bytes (control characters, and planes nobody writes in).
    missing = {ch for ch, byte in ALPHABET.items() if default._core.token_to_id(ch) is None}
    if not any(character in missing for byte in text.encode() for character in [_character(byte)]):
        assert default.decode(ids, skip_special=False) == text
    held = default.stream(skip_special=False)
    for piece in map(held.push, ids):
        assert "\ufffd" not in piece or "\ufffd" in text  # never half a character


def _character(byte: int) -> str:
    return next(character for character, value in ALPHABET.items() if value == byte)


def test_bytes_of_tokens() -> None:
    assert sorted(ALPHABET.values()) == list(range(256))
    assert byte_level("ĠHiÃ©") == " Hié".encode()
    assert byte_level("日") == "日".encode()
    assert sentencepiece("▁Hi▁") == b" Hi "
    assert sentencepiece("<0x0A>") == b"\n"
    assert sentencepiece("<0xZZ>") == b"<0xZZ>"


# Sentencepiece vocabularies, trained here on text that needs all of their parts.
CORPUS = [
    "the cat sat on the mat and the dog sat on the log", "    indented code()", "aaaa aaa aa a",
    "return self.value + other.value", "he said: hello, hello there!", "naïve café",
    "1 2 3 12 123 1999 2024", "x = [1, 2, 3]",
]  # fmt: skip


def trained(**options: Any) -> Any:
    """A sentencepiece BPE model."""
    spm = pytest.importorskip("sentencepiece")
    pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    buffer = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3), model_writer=buffer, model_type="bpe", vocab_size=400,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, num_threads=1, minloglevel=2, **options,
    )  # fmt: skip
    model = pb2.ModelProto()
    model.ParseFromString(buffer.getvalue())
    return model


def spm_metadata(model: Any, **more: Any) -> dict[str, Any]:
    """How a converter writes a sentencepiece model into GGUF metadata."""
    user_defined = 4
    values = {
        "model": "llama",
        "tokens": [p.piece.replace("▁", " ") if p.type == user_defined else p.piece for p in model.pieces],
        "token_type": [p.type for p in model.pieces],
        "scores": [p.score for p in model.pieces],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "add_space_prefix": model.normalizer_spec.add_dummy_prefix,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (values | more).items() if value is not None}


SPM_KINDS: dict[str, dict[str, Any]] = {
    "prefixed": {"add_dummy_prefix": True},
    "bare": {"add_dummy_prefix": False, "user_defined_symbols": ["\n", "\n\n", "▁▁", "▁▁▁▁", "<turn>"]},
}


@pytest.mark.parametrize("kind", SPM_KINDS)
def test_scored_vocabularies_equal_sentencepiece(kind: str, tmp_path: Path) -> None:
    model = trained(**SPM_KINDS[kind])
    spm = pytest.importorskip("sentencepiece")
    theirs = spm.SentencePieceProcessor(model_proto=model.SerializeToString())
    ours = load_tokenizer(FakeSource(spm_metadata(model)))
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    folder = load_tokenizer(FakeSource({}, kind="safetensors", path=tmp_path))
    for text in [*CORPUS, *TEXTS, "  hello\n\n\n  there    x", "the<turn>cat", "aaaaa aaaaaaaa", "日 é"]:
        ids = theirs.encode(text)
        for tokenizer in (ours, folder):
            assert tokenizer.encode(text, add_special=False) == ids, repr(text)
            assert tokenizer.encode(text) == [1, *ids]
            assert tokenizer.decode(ids) == text
            assert tokenizer.decode([1, *ids, 2]) == text
    assert (ours.bos_id, ours.eos_ids) == (1, {2})
    assert (folder.bos_id, folder.eos_ids) == (1, {2})


def test_a_continuation_keeps_its_space() -> None:
    tokenizer = load_tokenizer(FakeSource(spm_metadata(trained(add_dummy_prefix=True))))
    ids = tokenizer.encode("the cat", add_special=False)
    assert tokenizer.decode(ids) == "the cat"
    assert tokenizer.decode(ids, continues=True) == " the cat"
    stream = tokenizer.stream(continues=True)
    assert "".join(map(stream.push, ids)) + stream.flush() == " the cat"


def test_byte_tokens_are_held_back_until_the_character_is_whole() -> None:
    tokenizer = load_tokenizer(FakeSource(spm_metadata(trained(add_dummy_prefix=False))))
    stream = tokenizer.stream()
    ids = tokenizer.encode("🙂!", add_special=False)
    assert [stream.push(i) for i in ids] == ["", "", "", "🙂", "!"]
    stream = tokenizer.stream()
    assert stream.push(ids[0]) + stream.push(ids[1]) == ""
    assert stream.flush() == "\ufffd"


def test_phi3_control_tokens_take_the_space_behind_them() -> None:
    metadata = spm_metadata(trained(add_dummy_prefix=True, control_symbols=["<|end|>"]))
    tokenizer = load_tokenizer(FakeSource(metadata | {"general.name": "Phi-3 mini"}))
    end = metadata["tokenizer.ggml.tokens"].index("<|end|>")
    assert tokenizer.encode("the<|end|>\n\n", add_special=False)[-1] == end
    assert end in tokenizer.eos_ids


# Hugging Face folders.


def byte_level_folder(folder: Path, *, bos: bool = False, **settings: Any) -> Any:
    """Train a small byte-level tokenizer and save it as Transformers does."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer as Core
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    core = Core(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator(CORPUS, trainer)
    core.add_tokens(["<tool>"])
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    core.enable_truncation(4)
    core.enable_padding(length=9, pad_id=0, pad_token="<s>")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", **settings
    )
    fast.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("bos", [True, False])
def test_folder_tokenizer_equals_transformers(tmp_path: Path, bos: bool) -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    )
    theirs = byte_level_folder(tmp_path, bos=bos, chat_template=template)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    ours = load_tokenizer(FakeSource({}, kind="safetensors", path=tmp_path))
    for text in [*TEXTS, *CORPUS, "a<s>b</s> <tool> <|im_end|>"]:
        for special in (True, False):
            ids = theirs(text, add_special_tokens=special)["input_ids"]
            assert ours.encode(text, add_special=special) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids)
    assert (ours.bos_id, ours.eos_ids, ours.vocab_size) == (0, {1, 2}, len(theirs))
    messages = [{"role": "user", "content": "hello"}]
    assert ours.chat(messages) == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert ours.encode("<|im_end|>", add_special=False) == [2]
    assert 2 not in ours.encode("<|im_end|>", parse_special=False)
    assert (
        ours.decode(ours.encode("<tool><|im_end|>", add_special=False, parse_special=False))
        == "<tool><|im_end|>"
    )


def test_templates_have_an_order_of_precedence(tmp_path: Path) -> None:
    byte_level_folder(tmp_path)
    settings_path = tmp_path / "tokenizer_config.json"
    settings = json.loads(settings_path.read_text())
    source = FakeSource({}, kind="safetensors", path=tmp_path)
    with pytest.raises(UsageError, match="no chat template"):
        load_tokenizer(source).chat([])
    (tmp_path / "chat_template.json").write_text('{"chat_template": "processor"}')
    assert load_tokenizer(source).chat([]) == "processor"
    settings["chat_template"] = [
        {"name": "default", "template": "listed"},
        {"name": "tool_use", "template": "tools"},
    ]
    settings_path.write_text(json.dumps(settings))
    assert load_tokenizer(source).chat([]) == "listed"
    assert load_tokenizer(source).chat([], tools=[{"type": "function"}]) == "tools"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert load_tokenizer(source).chat([]) == "file"
    gguf = {"tokenizer.chat_template": "one", "tokenizer.chat_template.tool_use": "two"}
    tokenizer = load_tokenizer(FakeSource(TINY | gguf))
    assert (tokenizer.chat([]), tokenizer.chat([], tools=[{}])) == ("one", "two")


def test_tokens_that_only_the_settings_list_are_added(tmp_path: Path) -> None:
    byte_level_folder(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    source = FakeSource({}, kind="safetensors", path=tmp_path)
    size = load_tokenizer(source).vocab_size
    extra = {"content": "<late>", "special": True, "normalized": False}
    settings["added_tokens_decoder"] = {str(size): extra}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(source).encode("<late>", add_special=False) == [size]
    settings["added_tokens_decoder"] = {str(size + 5): extra}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(BadFile, match="cannot have id"):
        load_tokenizer(source)
    settings["added_tokens_decoder"] = {"9" * 5000: extra}  # more digits than Python turns into a number
    settings["model_max_length"] = int(1e30)  # what Transformers writes for "no limit"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(source).vocab_size == size


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
)
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    byte_level_folder(folder)
    source = FakeSource({}, kind="safetensors", path=folder)
    kept = (folder / name).read_text() if (folder / name).exists() else "{}"
    outside = tmp_path / "outside"
    outside.write_text(kept)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    with pytest.raises(BadFile, match="outside its folder"):
        load_tokenizer(source)
    outside.rename(folder / "real")
    (folder / name).unlink()
    (folder / name).symlink_to("real")
    load_tokenizer(source)


def test_files_in_the_hub_cache_are_links(tmp_path: Path) -> None:
    model = tmp_path / "models--someone--something"
    snapshot, blobs = model / "snapshots" / "abc", model / "blobs"
    (snapshot / "additional_chat_templates").mkdir(parents=True)
    blobs.mkdir()
    byte_level_folder(snapshot)
    (snapshot / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    for path in [path for path in snapshot.rglob("*") if path.is_file()]:
        up = "../" * (len(path.relative_to(model).parts) - 1)
        path.rename(blobs / path.name)
        path.symlink_to(f"{up}blobs/{path.name}")
    tokenizer = load_tokenizer(FakeSource({}, kind="safetensors", path=snapshot))
    assert tokenizer.chat([], tools=[{"type": "function"}]) == "tools"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "tokenizer.model"])
def test_files_beyond_any_tokenizer_are_not_read(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 30)  # a hole: it takes no room on the disk
    with pytest.raises(BadFile, match="larger than"):
        load_tokenizer(FakeSource({}, kind="safetensors", path=tmp_path))


PANICS = {
    "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    "model": {"type": "BPE", "vocab": {}, "merges": []},
}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no tokenizer.json"),
        ({"tokenizer.json": "{"}, "not a readable tokenizer"),
        ({"tokenizer.json": '{"model": {"type": "BPE"}}'}, "not a readable tokenizer"),
        ({"tokenizer.json": "\x00\x01"}, "not a readable tokenizer"),
        # The library panics over this one.
        ({"tokenizer.json": json.dumps(PANICS)}, "not a readable tokenizer"),
        ({"tokenizer_config.json": "[1]"}, "not a JSON object"),
        ({"tokenizer_config.json": "[" * 100_000}, "not readable JSON"),
        ({"tokenizer.model": "nonsense"}, "tokenizer.model"),
    ],
)
def test_broken_folders_are_named(tmp_path: Path, files: dict[str, str], words: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(TrimtabError, match=words):
        load_tokenizer(FakeSource({}, kind="safetensors", path=tmp_path))


# Hostile metadata.

LETTERS = sorted(ALPHABET)
TINY: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": [*LETTERS, "ab", "abc", "<end>"],
    "tokenizer.ggml.token_type": [1] * 258 + [3],
    "tokenizer.ggml.merges": ["a b", "ab c"],
    "tokenizer.ggml.eos_token_id": 258,
}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": None}, BadFile, "missing"),
        ({"model": "bert"}, Unsupported, "bert"),
        ({"pre": "unheard-of"}, Unsupported, "unheard-of"),
        ({"tokens": None}, BadFile, "a list of tokens"),
        ({"tokens": []}, BadFile, "a list of tokens"),
        ({"tokens": [1, 2]}, BadFile, "a list of text"),
        ({"tokens": ["a"] * 259}, BadFile, "twice"),
        ({"token_type": [1]}, BadFile, "259"),
        ({"merges": None}, BadFile, "merges"),
        ({"merges": ["a"]}, BadFile, "cannot be built"),
        ({"merges": ["a zz"]}, BadFile, "cannot be built"),
        ({"merges": ["b c"]}, BadFile, "cannot be built"),
        ({"merges": [1]}, BadFile, "cannot be built"),
        ({"model": "llama"}, BadFile, "scores"),
        ({"model": "llama", "scores": [float("nan")] * 259}, BadFile, "finite"),
        ({"eos_token_id": "two"}, BadFile, "whole number"),
        ({"add_bos_token": 3}, BadFile, "true or false"),
    ],
)
def test_bad_metadata_is_named(change: dict[str, Any], error: type[TrimtabError], words: str) -> None:
    values = TINY | {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    with pytest.raises(error, match=words):
        load_tokenizer(FakeSource(values))


def test_ids_beyond_the_vocabulary_mean_none() -> None:
    values = TINY | {"tokenizer.ggml.bos_token_id": 4_294_967_295, "tokenizer.ggml.add_bos_token": True}
    tokenizer = load_tokenizer(FakeSource(values))
    assert tokenizer.bos_id is None
    assert tokenizer.encode("abc") == [257]


junk = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 300), st.floats(), st.text(max_size=3), st.binary(max_size=3),
    st.lists(st.text(max_size=3), max_size=4), st.lists(st.integers(-9, 300), max_size=4),
    st.lists(st.sampled_from([*LETTERS[60:80], " ", "ab", "", "a b", "  ", "a  b"]), max_size=259),
)  # fmt: skip
KEYS = ["model", "pre", "tokens", "token_type", "merges", "scores", "eos_token_id", "bos_token_id",
        "add_bos_token", "add_eos_token", "add_space_prefix", "unknown_token_id"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), junk, max_size=4), st.booleans(), st.text(max_size=8))
def test_no_metadata_breaks_the_reader(change: dict[str, Any], scored: bool, text: str) -> None:
    kind = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0] * 259} if scored else {}
    values = TINY | kind | {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    try:
        tokenizer = load_tokenizer(FakeSource(values))
        ids = tokenizer.encode(text)
    except TrimtabError:
        return
    assert isinstance(tokenizer.decode(ids), str)
