"""Checkpoints made up from a configuration: the engine takes them, and they are the size of the real ones."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import VARIANTS, make_variant

from trimtab.engine.runner import NativeRunner
from trimtab.errors import BadFile, TrimtabError, Unsupported
from trimtab.formats.source import open_source
from trimtab.models.config import config_from
from trimtab.models.made import MadeSource, read_config


@pytest.mark.parametrize("name", VARIANTS)
def test_a_made_model_is_as_large_as_the_real_one(name: str, tmp_path: Path) -> None:
    with closing(open_source(make_variant(name, tmp_path, "bfloat16"))) as real:
        config = config_from(real)
        sizes: dict[str, Any] = {"max_rows": 8, "max_wanted": 1, "context": 64}
        made = MadeSource(config, biased=any(each.endswith("q_proj.bias") for each in real.names()))
        assert NativeRunner.sizes(made, config, **sizes) == NativeRunner.sizes(real, config, **sizes)


def test_a_made_model_runs(tmp_path: Path) -> None:
    with closing(open_source(make_variant("gemma3", tmp_path, "bfloat16"))) as real:
        config = config_from(real)
    source = MadeSource(config, dtypes={"down": "Q8_0"} if config.mlp % 32 == 0 else {})
    with closing(
        NativeRunner.open(source, config, num_pages=3, max_rows=8, max_wanted=1, context=32, threads=1)
    ) as runner:
        from trimtab.engine.prefill_time import prompt_seconds

        assert all(seconds > 0 for seconds in prompt_seconds(runner, 20, 8, 2))
    raw = source.raw("model.layers.0.self_attn.q_proj.weight").view(np.uint16).astype(np.uint32) << 16
    sizes = np.abs(raw.view(np.float32))
    assert sizes.min() > 1e-3
    assert sizes.max() < 1
    with pytest.raises(BadFile, match="missing"):
        source.info("model.layers.99.mlp.up_proj.weight")


def test_a_configuration_alone_is_read(tmp_path: Path) -> None:
    folder = make_variant("llama", tmp_path, "bfloat16")
    with closing(open_source(folder)) as real:
        assert read_config(folder / "config.json") == config_from(real)
    path = tmp_path / "other.json"
    good = json.loads((folder / "config.json").read_text())
    for wrong in (
        "[]",
        "{",
        "{}",
        json.dumps(good | {"vocab_size": None}),
        json.dumps(good | {"hidden_size": -1}),
    ):
        path.write_text(wrong)
        with pytest.raises((BadFile, Unsupported)):
            read_config(path)
    path.write_text(json.dumps(good | {"model_type": "mamba"}))
    with pytest.raises(Unsupported, match="mamba"):
        read_config(path)
    with pytest.raises(BadFile, match=r"cannot|readable"):
        read_config(tmp_path / "missing.json")


@given(
    st.dictionaries(
        st.sampled_from(["model_type", "vocab_size", "hidden_size", "num_hidden_layers", "text_config"]),
        st.none()
        | st.integers(-5, 2**40)
        | st.text(max_size=5)
        | st.dictionaries(st.text(max_size=3), st.none()),
    )
)
def test_any_object_is_a_configuration_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("any") / "config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(TrimtabError):
        read_config(path)
