"""Every rule finds the loss it is for in a made-up dissection, and none in a healthy one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from trimtab.errors import UsageError
from trimtab.machine.dissect.doctor import RULES, WORST, examine


def operator(
    name: str, seconds: float, bound: float, kind: str, stage: str = "decode", calls: int = 1000
) -> Any:
    return {
        "stage": stage, "name": name, "calls": calls, "seconds": seconds, "bound_s": bound,
        "of_bound": bound / seconds, "class": kind, "wait_s": 0.0, "share": seconds / 10, "bytes": 1e9,
    }  # fmt: skip


def healthy() -> dict[str, Any]:
    """Ten seconds of decoding in which nothing stands out."""
    return {
        "schema": "dissection/1",
        "facts": {"threads": 2, "machine": {"usable": 2}, "kv_type": "bf16", "kernels": "avx512"},
        "steps": {"stages": [{"stage": "decode", "seconds": 9.5}, {"stage": "prefill", "seconds": 0.5}]},
        "engine": {
            "wall_s": 10.0,
            "rows": [
                {"part": "schedule", "calls": 1000, "seconds": 0.1},
                {"part": "wake", "calls": 1000, "seconds": 0.1},
                {"part": "operations", "calls": 1000, "seconds": 9.8},
            ],
        },
        "server": [{"part": "write", "calls": 100, "seconds": 0.1}],
        "operators": [
            operator("layers.*.mlp.down", 6.0, 5.0, "compute"),
            operator("layers.*.attn.attend", 1.5, 1.0, "bandwidth"),
            operator("head", 1.5, 1.4, "bandwidth"),
            operator("layers.*.attn.norm", 0.2, 0.02, "latency/dispatch"),
        ],
        "threads": [
            {"worker": each, "seconds": 10.0, "wait_s": 0.3, "wait_share": 0.03} for each in range(2)
        ],
        "requests": {
            "medians": {"parse": 0.001, "tokenize": 0.001, "queue": 0.01, "prefill": 0.2, "decode": 2.0},
            "rows": [{"prompt_tokens": 100, "cached_tokens": 0}],
        },
        "noise": {"steal": 0.01, "others": 0.02},
    }  # fmt: skip


def stage(name: str, seconds: float) -> Callable[[dict[str, Any]], None]:
    def change(d: dict[str, Any]) -> None:
        for each in d["steps"]["stages"]:
            if each["stage"] == name:
                each["seconds"] = seconds

    return change


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(d: dict[str, Any]) -> None:
        *way, last = path.split("/")
        for step in way:
            d = d[int(step) if isinstance(d, list) else step]
        d[int(last) if isinstance(d, list) else last] = value

    return change


ILL: dict[str, list[Callable[[dict[str, Any]], None]]] = {
    "vocabulary": [put("operators/2", operator("head", 4.0, 1.0, "bandwidth"))],
    "barriers": [
        *(put(f"threads/{worker}/wait_s", 4.0) for worker in (0, 1)),
        *(put(f"threads/{worker}/wait_share", 0.4) for worker in (0, 1)),
    ],
    "small operators": [put("operators/3", operator("layers.*.attn.norm", 2.0, 0.1, "latency/dispatch"))],
    "weights": [put("operators/0", operator("layers.*.mlp.down", 6.0, 5.0, "bandwidth"))],
    "cache": [put("operators/1", operator("layers.*.attn.attend", 4.0, 3.0, "bandwidth"))],
    "host": [put("engine/rows/1/seconds", 3.0)],
    "answers": [put("server/0/seconds", 2.0)],
    "queue": [put("requests/medians/queue", 4.0)],
    "before the engine": [put("requests/medians/tokenize", 1.0)],
    "prompts": [stage("prefill", 6.0), stage("decode", 4.0)],
    "kernels": [put("operators/0", operator("layers.*.mlp.down", 6.0, 1.0, "compute"))],
    "neighbours": [put("noise/steal", 0.3)],
    "threads": [put("facts/threads", 8)],
}  # fmt: skip


def test_every_rule_has_a_case() -> None:
    assert set(ILL) == {rule.name for rule in RULES}
    assert len({rule.what for rule in RULES}) == len(RULES)


def test_a_healthy_run_has_nothing() -> None:
    assert examine(healthy(), 99) == []


@pytest.mark.parametrize("name", ILL)
def test_a_rule_finds_its_loss(name: str) -> None:
    ill = healthy()
    for change in ILL[name]:
        change(ill)
    before = copy.deepcopy(ill)
    found = {each.rule: each for each in examine(ill, 99)}
    assert ill == before
    assert name in found
    finding = found[name]
    assert 0 < finding.gain <= 1
    assert finding.bound_s <= finding.seconds
    assert any(letter.isdigit() for letter in finding.evidence)
    assert finding.change
    if name != "prompts":  # more prompt time means less of everything else
        assert set(found) == {name}


def test_the_worst_come_first_and_no_more_than_asked() -> None:
    ill = healthy()
    for name in ("vocabulary", "host", "neighbours", "queue"):
        for change in ILL[name]:
            change(ill)
    gains = [each.gain for each in examine(ill)]
    assert len(gains) == WORST
    assert gains == sorted(gains, reverse=True)


def test_a_wide_cache_is_only_blamed_when_it_is_wide() -> None:
    ill = healthy()
    for change in ILL["cache"]:
        change(ill)
    ill["facts"]["kv_type"] = "int8"
    assert examine(ill, 99) == []


def test_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match="no dissection"):
        examine({"schema": "hwprofile/1"})
