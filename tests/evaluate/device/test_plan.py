"""Plans are checked before anything starts, and conversations are the same everywhere."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import BadFile
from trimtab.evaluate.device.conversations import NUMBER, conversations
from trimtab.evaluate.device.groups import processors_of
from trimtab.evaluate.device.limited import read_curve
from trimtab.evaluate.device.plan import Plan, read_plan

GOOD = """
devices:
  - {name: here}
  - {name: small, driver: cgroup, limits: {memory_bytes: 512MB, cpus: 0.5}, throttle: curve.csv}
engines: [{name: trimtab}, {name: openai, title: other, command: [serve, "{model}", "{port}"]}]
models: [{model: smollm2, quants: [auto, q4], files: {q4: other.gguf}}]
conversations: [2, 4]
lengths: free
sustained: {seconds: 30}
"""


def test_a_plan_names_every_combination_in_order(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(GOOD)
    plan = read_plan(path)
    jobs = [(job.device.name, job.engine.label, job.quant) for job in plan.jobs()]
    expected = [(d, e, q) for d in ("here", "small") for e in ("trimtab", "other") for q in ("auto", "q4")]
    assert jobs == expected
    assert plan.devices[1].limits.memory_bytes == 512_000_000
    assert plan.devices[1].throttle == tmp_path / "curve.csv"
    assert [job.file for job in plan.jobs()][:2] == [None, tmp_path / "other.gguf"]
    assert len({job.folder for job in plan.jobs()}) == len(jobs)
    assert all("/" not in job.folder for job in plan.jobs())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "table"),
        ("a: [", "YAML"),
        ("speed: fast", "speed"),
        ("devices: [{name: a}, {name: a}]", "same name"),
        ("devices: [{name: a, limits: {cpus: 1}}]", "cgroup"),
        ("devices: [{name: a, driver: replay}]", "record"),
        ("devices: [{name: ../a}]", "devices.0.name"),
        ("devices: [{name: a, driver: cgroup, limits: {memory_bytes: lots}}]", "not a size"),
        ("devices: [{name: a, driver: cgroup, limits: {cpuset: 'x'}}]", "cpuset"),
        ("engines: [{name: openai}]", "command or a url"),
        ("engines: [{name: vllm}]", "engines.0.name"),
        ("conversations: [4, 2]", "conversations"),
        ("conversations: [0, 51]", "conversations"),
        ("max_tokens: 4096", "below context"),
        ("repetitions: 0", "repetitions"),
        ("sampling: {temperature: -1}", "sampling.temperature"),
    ],
)
def test_a_wrong_plan_is_refused_by_name(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(BadFile, match=says):
        read_plan(path)


@given(st.text(max_size=200) | st.recursive(st.none() | st.integers() | st.text(max_size=8), lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(Plan.model_fields)), inner, max_size=4)
)).map(json.dumps))  # fmt: skip
def test_no_plan_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    with contextlib.suppress(BadFile):
        assert isinstance(read_plan(path), Plan)


def test_the_fifty_conversations_are_always_the_same() -> None:
    one, other = conversations(), conversations()
    assert one == other
    assert len(one) == NUMBER == 50
    assert all(6 <= len(each.turns) <= 10 and len(each.replies) == len(each.turns) for each in one)
    assert len({each.turns for each in one}) == 50
    assert conversations(seed=1) != one


def test_a_chat_goes_on_from_the_written_replies_or_from_the_models_own() -> None:
    conversation = conversations()[7]
    chat = conversation.messages(2)
    assert [message["role"] for message in chat] == ["user", "assistant", "user", "assistant", "user"]
    assert chat[1]["content"] == conversation.replies[0]
    assert conversation.messages(2, ["a", "b"])[3]["content"] == "b"
    assert chat[-1]["content"] == conversation.turns[2]


@pytest.mark.parametrize(
    "text", ["", "time_s,cpus\n", "time_s,cpus\n0,0\n", "time_s,cpus\n1,1\n1,2\n", "time_s,cpus\nx,1\n",
             "time_s,cpus\n0,nan\n", "a,b\n1,2\n"]
)  # fmt: skip
def test_a_wrong_throttle_curve_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text(text)
    with pytest.raises(BadFile):
        read_curve(path)


def test_processors_are_counted() -> None:
    assert processors_of("0-2,5") == [0, 1, 2, 5]
    assert processors_of("3") == [3]
