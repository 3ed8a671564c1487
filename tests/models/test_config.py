"""Configurations of both file kinds, against Transformers' own configuration classes and hostile values."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_source import FakeSource
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import BadFile, TrimtabError, Unsupported
from trimtab.models.config import ModelConfig, config_from

transformers = pytest.importorskip("transformers")

TINY: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def hf(config: dict[str, Any], rows: int = 96, hidden: int = 64) -> ModelConfig:
    tensors = {"model.embed_tokens.weight": (rows, hidden)}
    return config_from(FakeSource(config, tensors, kind="safetensors"))


def saved(config: Any) -> dict[str, Any]:
    """What `save_pretrained` would write."""
    loaded: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    return loaded


def gguf_metadata(architecture: str, **more: Any) -> dict[str, Any]:
    plain = {
        "block_count": 7,
        "context_length": 128,
        "embedding_length": 64,
        "feed_forward_length": 80,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    values = {f"{architecture}.{key}": value for key, value in (plain | more).items() if value is not None}
    return {"general.architecture": architecture, "general.name": "tiny"} | values


def gguf(architecture: str, tensors: dict[str, Any] | None = None, **more: Any) -> ModelConfig:
    metadata = gguf_metadata(architecture, **{key.replace("__", "."): value for key, value in more.items()})
    return config_from(FakeSource(metadata, {"token_embd.weight": (96, 64)} | (tensors or {})))


CLASSES = {
    "llama": "LlamaConfig",
    "mistral": "MistralConfig",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "gemma2": "Gemma2Config",
    "gemma3": "Gemma3TextConfig",
    "phi3": "Phi3Config",
}


@pytest.mark.parametrize("architecture", CLASSES)
@pytest.mark.parametrize("minimal", [False, True])
def test_folder_configuration_agrees_with_transformers(architecture: str, minimal: bool) -> None:
    sizes = {"vocab_size": 96, "hidden_size": 64} if minimal else TINY | {"pad_token_id": 0}
    theirs = getattr(transformers, CLASSES[architecture])(**sizes, pad_token_id=None) if minimal else None
    theirs = theirs or getattr(transformers, CLASSES[architecture])(**sizes)
    # The published files leave out what equals the class's default, and name only the model type.
    content = {"model_type": theirs.model_type} | sizes if minimal else saved(theirs)
    if minimal and architecture in ("llama", "phi3", "qwen2", "mistral"):
        content |= {
            "intermediate_size": theirs.intermediate_size,
            "num_hidden_layers": theirs.num_hidden_layers,
            "num_attention_heads": theirs.num_attention_heads,
        }
    if minimal and architecture == "qwen3":
        content |= {"intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32}
    if minimal and architecture == "qwen2":
        content |= {"num_key_value_heads": 32}
    if minimal and architecture == "qwen3":
        content |= {"num_key_value_heads": 32}
    ours = hf(content)
    assert ours.architecture == architecture
    assert ours.layers == theirs.num_hidden_layers
    assert (ours.heads, ours.kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
    assert ours.mlp == theirs.intermediate_size
    assert ours.context == theirs.max_position_embeddings
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.tied == theirs.tie_word_embeddings
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert ours.head_dim == head_dim
    assert ours.attention_scale == pytest.approx(getattr(theirs, "query_pre_attn_scalar", head_dim) ** -0.5)
    assert ours.attention_softcap == (getattr(theirs, "attn_logit_softcapping", 0) or 0)
    assert ours.final_softcap == (getattr(theirs, "final_logit_softcapping", 0) or 0)
    kinds = getattr(theirs, "layer_types", None)
    window = getattr(theirs, "sliding_window", None) or 0
    expected = tuple(
        window if kinds is None or kind == "sliding_attention" else 0 for kind in kinds or [""] * ours.layers
    )
    assert ours.windows == expected
    assert ours.norm_offset == (1.0 if architecture.startswith("gemma") else 0.0)


def rope_of(config: Any, layer_type: str | None = None, seq_len: int | None = None) -> tuple[Any, float]:
    """Transformers' own frequencies for a configuration."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = config.rope_parameters[layer_type] if layer_type else config.rope_parameters
    if parameters["rope_type"] == "default":
        dim = int(config.head_dim * parameters.get("partial_rotary_factor", 1.0))
        linear = type(config)(
            **(saved(config) | {"rope_parameters": parameters | {"rope_type": "linear", "factor": 1.0}})
        )
        frequencies, factor = ROPE_INIT_FUNCTIONS["linear"](linear)
        assert len(frequencies) == dim // 2
        return frequencies.numpy(), factor
    frequencies, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](
        config, seq_len=seq_len, layer_type=layer_type
    )
    return frequencies.numpy(), float(factor)


ULP = 2.0**-23  # one unit in the last place of a float32, relative
PAIRS = [1.0 + 0.03 * i for i in range(8)]
SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 3.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.25},
    {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.7,
     "mscale_all_dim": 1.0, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
    {"rope_type": "longrope", "short_factor": PAIRS, "long_factor": [3 * x for x in PAIRS],
     "original_max_position_embeddings": 64},
    {"rope_type": "longrope", "short_factor": PAIRS, "long_factor": [3 * x for x in PAIRS], "factor": 2.0,
     "original_max_position_embeddings": 64, "attention_factor": 1.5},
]  # fmt: skip


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s["rope_type"])
@pytest.mark.parametrize("context", [48, 100, 300])
@pytest.mark.parametrize("style", ["new", "old"])
def test_rope_frequencies_equal_transformers(scaling: dict[str, Any], context: int, style: str) -> None:
    place = {"rope_parameters": scaling | {"rope_theta": 50_000.0}}
    theirs = transformers.LlamaConfig(**TINY, **json.loads(json.dumps(place)))
    old = {
        "rope_scaling": {("type" if k == "rope_type" else k): v for k, v in scaling.items()},
        "rope_theta": 50_000.0,
    }
    ours = hf({"model_type": "llama"} | TINY | (place if style == "new" else old)).ropes[0]
    expected, factor = rope_of(theirs, seq_len=context)
    got, got_factor = ours.frequencies(context)
    assert got.dtype == np.float32
    # Three rounded operations each, and torch's power is within one unit in the last place.
    np.testing.assert_allclose(got, expected, rtol=4 * ULP)
    assert got_factor == pytest.approx(factor, rel=1e-12)


def test_default_and_partial_rope() -> None:
    theirs = transformers.Phi3Config(**TINY, pad_token_id=0, rope_parameters={
        "rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5})  # fmt: skip
    ours = hf(saved(theirs)).ropes[0]
    assert ours.dim == 8
    model = transformers.models.phi3.modeling_phi3.Phi3RotaryEmbedding(theirs)
    np.testing.assert_allclose(ours.frequencies(64)[0], model.inv_freq.numpy(), rtol=2 * ULP)


def test_phi3_long_rope_takes_its_factor_from_the_two_contexts() -> None:
    scaling = {"rope_type": "longrope", "short_factor": PAIRS, "long_factor": PAIRS[::-1]}
    theirs = transformers.Phi3Config(
        **TINY, pad_token_id=0, original_max_position_embeddings=32, rope_parameters=dict(scaling)
    )
    for context in (32, 33):
        expected, factor = rope_of(theirs, seq_len=context)
        for name in ("longrope", "su"):
            content = saved(theirs) | {"rope_parameters": None, "rope_scaling": scaling | {"type": name}}
            content["rope_scaling"].pop("rope_type")
            got, got_factor = hf(content).ropes[0].frequencies(context)
            np.testing.assert_allclose(got, expected, rtol=4 * ULP)
            assert got_factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("style", ["new", "old"])
def test_gemma3_has_a_global_and_a_local_rope(style: str) -> None:
    linear = {"rope_type": "linear", "factor": 8.0}
    theirs = transformers.Gemma3TextConfig(**TINY, head_dim=16, rope_scaling=dict(linear))
    content = saved(theirs)
    if style == "old":
        content |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": linear}
        del content["rope_parameters"], content["layer_types"]
    ours = hf(content)
    assert ours.rope_of_layer == (1, 1, 1, 1, 1, 0, 1)
    model = transformers.models.gemma3.modeling_gemma3.Gemma3RotaryEmbedding(theirs)
    for rope, expected in zip(
        ours.ropes, (model.full_attention_inv_freq, model.sliding_attention_inv_freq), strict=True
    ):
        np.testing.assert_allclose(rope.frequencies(64)[0], expected.numpy(), rtol=4 * ULP)


def test_gemma3_inside_a_multimodal_model() -> None:
    text = {key: value for key, value in TINY.items() if key != "vocab_size"} | {
        "head_dim": 16,
        "vocab_size": 96,
    }
    source = FakeSource(
        {"model_type": "gemma3", "text_config": text | {"model_type": "gemma3_text"}},
        {"language_model.model.embed_tokens.weight": (96, 64)},
        kind="safetensors",
    )
    config = config_from(source)
    assert (config.architecture, config.tied, config.heads) == ("gemma3", True, 4)
    assert config.embed_scale == 8.0


def test_qwen_windows_count_from_the_first_windowed_layer() -> None:
    qwen = {"model_type": "qwen2"} | TINY | {"sliding_window": 32, "max_window_layers": 4}
    assert hf(qwen).windows == (0,) * 7
    assert hf(qwen | {"use_sliding_window": True}).windows == (0, 0, 0, 0, 32, 32, 32)


def test_default_model_file_reads(default_model: Path) -> None:
    source_module = pytest.importorskip("trimtab.formats.source")
    config = config_from(source_module.open_source(default_model))
    assert (config.architecture, config.layers, config.hidden, config.heads, config.kv_heads) == (
        "llama",
        30,
        576,
        9,
        3,
    )
    assert (config.head_dim, config.mlp, config.context, config.vocab_size) == (64, 1536, 8192, 49152)
    assert (config.tied, config.ropes[0].theta, config.ropes[0].kind) == (True, 100_000.0, "default")


def test_gguf_gemma_constants() -> None:
    two = gguf("gemma2", attention__key_length=32, attention__value_length=32)
    assert two.windows == (4096, 0, 4096, 0, 4096, 0, 4096)
    assert (two.attention_softcap, two.final_softcap, two.attention_scale) == (50.0, 30.0, 1 / math.sqrt(32))
    assert (two.norm_offset, two.embed_scale, two.activation, two.head_dim) == (0.0, 8.0, "gelu_tanh", 32)
    three = gguf("gemma3", attention__sliding_window=512, rope__freq_base=1e6, rope__scaling__type="linear",
                 rope__scaling__factor=8.0)  # fmt: skip
    assert three.windows == (512,) * 5 + (0, 512)
    assert three.rope_of_layer == (1,) * 5 + (0, 1)
    assert [(rope.theta, rope.kind, rope.factor) for rope in three.ropes] == [
        (1e6, "linear", 8.0),
        (1e4, "default", 1.0),
    ]
    assert (three.attention_softcap, three.final_softcap) == (0.0, 0.0)
    large = gguf("gemma2", block_count=46, attention__head_count=32, attention__head_count_kv=16,
                 attention__key_length=8, attention__value_length=8)  # fmt: skip
    assert large.attention_scale == 1 / math.sqrt(2)


def test_gguf_llama3_divisors_equal_the_formula() -> None:
    formula = hf({"model_type": "llama"} | TINY | {"rope_scaling": SCALINGS[2], "rope_theta": 5e5}).ropes[0]
    plain = hf({"model_type": "llama"} | TINY | {"rope_theta": 5e5}).ropes[0]
    divisors = plain.frequencies(1)[0] / formula.frequencies(1)[0]
    ours = gguf("llama", {"rope_freqs.weight": divisors}, rope__freq_base=5e5)
    got, factor = ours.ropes[0].frequencies(128)
    np.testing.assert_allclose(got, formula.frequencies(1)[0], rtol=4 * ULP)
    assert factor == 1.0


def test_gguf_yarn_and_long_rope() -> None:
    yarn = gguf("qwen2", rope__scaling__type="yarn", rope__scaling__factor=4.0,
                rope__scaling__original_context_length=32, rope__freq_base=1e6).ropes[0]  # fmt: skip
    same = hf({"model_type": "qwen2"} | TINY | {"rope_theta": 1e6, "rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}).ropes[0]  # fmt: skip
    np.testing.assert_array_equal(yarn.frequencies(128)[0], same.frequencies(128)[0])
    assert yarn.frequencies(128)[1] == pytest.approx(same.frequencies(128)[1])
    factors = {f"rope_factors_{name}.weight": np.array(PAIRS) * k for name, k in (("short", 1), ("long", 3))}
    long = gguf("phi3", factors, rope__scaling__original_context_length=64, rope__dimension_count=16,
                rope__scaling__attn_factor=1.19).ropes[0]  # fmt: skip
    assert long.frequencies(65)[1] == pytest.approx(1.19)
    assert (long.frequencies(64)[0] > 2.9 * long.frequencies(65)[0]).all()


def test_per_layer_lists_count_when_they_agree() -> None:
    assert gguf("llama", attention__head_count_kv=[2] * 7).kv_heads == 2
    with pytest.raises(Unsupported, match="differs between layers"):
        gguf("llama", attention__head_count_kv=[2] * 6 + [4])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"block_count": 0}, BadFile, "whole number"),
        ({"block_count": 10**9}, BadFile, "block_count"),
        ({"block_count": None}, BadFile, "missing"),
        ({"embedding_length": 65}, BadFile, "embedding table"),
        ({"attention.head_count": 3}, BadFile, "evenly"),
        ({"attention.head_count": "4"}, BadFile, "whole number"),
        ({"attention.key_length": 15, "attention.value_length": 15}, BadFile, "odd"),
        ({"attention.value_length": 8}, Unsupported, "different widths"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, BadFile, "finite"),
        ({"attention.layer_norm_rms_epsilon": 0.0}, BadFile, "above 0"),
        ({"rope.dimension_count": 18}, BadFile, "do not fit"),
        ({"rope.freq_base": 1.0}, BadFile, "rope base"),
        ({"rope.scaling.type": "spiral"}, Unsupported, "spiral"),
        ({"rope.scaling.type": "yarn"}, BadFile, "not positive"),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": -2.0}, BadFile, "not positive"),
        ({"expert_count": 8}, Unsupported, "mixture of experts"),
        ({"attention.sliding_window_pattern": [True]}, BadFile, "one flag"),
    ],
)
def test_bad_gguf_values_are_named(change: dict[str, Any], error: type[TrimtabError], words: str) -> None:
    metadata = gguf_metadata("llama", **change)
    with pytest.raises(error, match=words):
        config_from(FakeSource(metadata, {"token_embd.weight": (96, 64)}))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model_type": "bert"}, Unsupported, "bert"),
        ({"vocab_size": 97}, BadFile, "97 x 64"),
        ({"hidden_act": "relu"}, Unsupported, "relu"),
        ({"num_hidden_layers": True}, BadFile, "whole number"),
        ({"rope_scaling": {"type": "linear"}}, BadFile, "factor"),
        ({"rope_scaling": [1]}, BadFile, "an object"),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            BadFile,
            "8 positive",
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "head_dim": 2}, BadFile, "more than two"),
        ({"rope_parameters": {"rope_type": "proportional"}}, Unsupported, "proportional"),
        ({"partial_rotary_factor": 0.5}, Unsupported, "partial rotary"),
    ],
)
def test_bad_folder_values_are_named(change: dict[str, Any], error: type[TrimtabError], words: str) -> None:
    with pytest.raises(error, match=words):
        hf({"model_type": "llama"} | TINY | change)


junk = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4),
    st.lists(st.integers(0, 3), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip
KEYS = [*TINY, "head_dim", "rope_theta", "rope_scaling", "rope_parameters", "layer_types", "sliding_window",
        "use_sliding_window", "rms_norm_eps", "hidden_activation", "text_config", "tie_word_embeddings",
        "original_max_position_embeddings", "partial_rotary_factor"]  # fmt: skip


@given(st.sampled_from(sorted(CLASSES)), st.dictionaries(st.sampled_from(KEYS), junk, max_size=4))
def test_no_folder_value_breaks_the_reader(architecture: str, change: dict[str, Any]) -> None:
    try:
        config = hf({"model_type": architecture} | TINY | change)
    except TrimtabError:
        return
    for rope in config.ropes:
        assert np.isfinite(rope.frequencies(128)[0]).all()


GGUF_KEYS = ["rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
             "rope.scaling.original_context_length", "attention.sliding_window", "attention.key_length",
             "attention.sliding_window_pattern", "rope.scaling.yarn_beta_fast", "rope.scaling.attn_factor",
             "context_length", "attention.head_count_kv", "attention.scale"]  # fmt: skip


@given(st.sampled_from(sorted(CLASSES)), st.dictionaries(
    st.sampled_from(GGUF_KEYS), junk | st.sampled_from(["yarn", "linear", "none"]), max_size=5))  # fmt: skip
def test_no_metadata_value_breaks_the_reader(architecture: str, change: dict[str, Any]) -> None:
    try:
        config = config_from(
            FakeSource(gguf_metadata(architecture, **change), {"token_embd.weight": (96, 64)})
        )
    except TrimtabError:
        return
    for rope in config.ropes:
        assert np.isfinite(rope.frequencies(128)[0]).all()
