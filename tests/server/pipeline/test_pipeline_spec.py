"""Pipelines in YAML: what is wrong with one is said with its place."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import DIRECTION, OCR, spec_of

from trimtab.errors import TrimtabError
from trimtab.server.pipeline.ops import OPS, operation
from trimtab.server.pipeline.spec import PipelineSpec, checked, load


def test_the_reference_pipeline_says_what_it_gives() -> None:
    assert {"boxes", "crops", "turns", "texts"} <= spec_of(OCR).gives
    assert "texts" not in spec_of(DIRECTION).gives


@pytest.mark.parametrize("name", OPS)
def test_every_operation_has_ports_and_closed_settings(name: str) -> None:
    kind = operation(name)
    assert kind.takes
    assert kind.gives
    assert kind.__doc__
    with pytest.raises(ValueError, match="extra"):
        kind.Settings.model_validate({"no such setting": 1})


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([], "at least 1"),
        ([{"op": "decode"}], "no operation 'decode'"),
        ([{"op": "fit-to-network"}], "takes 'image', which no earlier stage gives"),
        ([DIRECTION[0], DIRECTION[0]], "two stages have this name"),
        ([*DIRECTION[:2], DIRECTION[2], {"op": "fit-to-network"}], "takes 'image'|cannot follow"),
        ([*OCR[:4], OCR[4], {**OCR[1], "name": "again"}], "cannot follow a stage of crops"),
        ([{**DIRECTION[0], "settings": {"sied": 1}}], "settings.sied"),
        ([{**DIRECTION[0], "worker": "process", "hand_over": "ring"}], "does not run in another process"),
        ([*DIRECTION[:2], {**DIRECTION[2], "hand_over": "ring"}], "does not go with"),
        ([*DIRECTION[:2], {**DIRECTION[2], "worker": "process", "hand_over": "kafka"}], "no hand_over"),
        ([{**DIRECTION[0], "batch": {"most": 0}}], "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_said(stages: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(TrimtabError, match=says):
        spec_of(stages)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match="cannot read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(TrimtabError, match="mapping with `stages`"):
        load(tmp_path / "list.yaml")


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_pipeline_or_an_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("spec", numbered=True) / "p.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(TrimtabError):
        assert isinstance(load(path), PipelineSpec)


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["op", "name", "batch", "most", "settings", "stages"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_any_value_is_a_pipeline_or_an_error(value: Any) -> None:
    with contextlib.suppress(TrimtabError):
        assert isinstance(checked({"stages": value}), PipelineSpec)
