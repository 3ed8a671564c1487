"""Decoding in a required form costs at most 5 % of the decode time, and every output parses.

Work: outputs of three JSON schemas (records, an order with choices, free text) of up to 160 tokens, by
themselves and 8 at a time, and the same number of tokens from the same prompts without a schema, in
alternating rounds; the time of the first token is left out. Once with the defaults, as served: text that a
schema forces is appended without asking the model, and both kinds are drafted. And once without either: the
price of the masks alone. Every output is validated.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from peers import record, roster
from trimtab import LLM, SamplingParams
from trimtab.engine.grammar import Grammar
from trimtab.engine.output import Completion
from trimtab.machine import quiet
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.report import Report

CLAIM = (__doc__ or "").partition("\n")[0]
TOKENS = 160
TOGETHER = (1, 8)
MOST = 1.05

_TEXT: dict[str, Any] = {"type": "string"}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties),
        "additionalProperties": False,
    }  # fmt: skip


SCHEMAS: dict[str, dict[str, Any]] = {
    "records": {
        "type": "array", "minItems": 4,
        "items": _object(name=_TEXT, age={"type": "integer", "maximum": 120}, active={"type": "boolean"}),
    },
    "order": _object(
        customer=_object(name=_TEXT, mail={"type": "string", "format": "email"}),
        status={"enum": ["new", "paid", "sent", "returned"]},
        lines={
            "type": "array", "minItems": 2,
            "items": _object(article=_TEXT, count={"type": "integer"}, price={"type": ["number", "null"]}),
        },
        note={"anyOf": [_TEXT, {"type": "null"}]},
    ),
    "text": _object(title=_TEXT, summary={"type": "string", "minLength": 300}),
}  # fmt: skip


def run(options: BenchOptions) -> Report:
    task = roster.open_task(options)
    rounds = 2 if options.quick else max(options.rounds, 9)
    samples: dict[str, dict[str, list[float]]] = {}
    invalid, finished = 0, 0
    common: dict[str, Any] = {"threads": task.threads, "context": 2048}
    with (
        LLM(task.model, drafting=False, forcing=False, **common) as bare,
        LLM(task.model, **common) as usual,
    ):
        for number in range(rounds + 1):
            for together in TOGETHER:
                for name, schema in SCHEMAS.items():
                    if not options.quick:
                        quiet.wait(options.patience_seconds)
                    prompts = [_prompt(bare, name, number * together + i) for i in range(together)]
                    done, seconds = _measure(bare, prompts, schema, number, number % 2 == 1)
                    quick, served = _measure(usual, prompts, schema, number, number % 2 == 1)
                    for output in [*done, *quick]:
                        finished += 1
                        invalid += not _valid(output, schema)
                    if number:  # the first round warms up
                        kinds = samples.setdefault(f"{name}, {together} at a time", {})
                        for kind, value in seconds.items():
                            kinds.setdefault(kind, []).append(value)
                            kinds.setdefault(f"{kind} as served", []).append(served[kind])
    rows, targets, costs = [], [], []
    for work, kinds in samples.items():
        row: dict[str, Any] = {"work": work}
        for how, name in (("masks alone", ""), ("as served", " as served")):
            constrained, free = kinds[f"constrained{name}"], kinds[f"free{name}"]
            cost = _median_ratio(constrained, free)
            costs.append(cost)
            row |= {
                f"{how}: free ms/token": _ms(free), f"{how}: ms/token": _ms(constrained),
                f"{how}: cost": cost,
            }  # fmt: skip
            targets.append(target(f"{work}, {how}: time a token over free decoding", cost, most=MOST))
        rows.append(row)
    targets.append(target("outputs that do not validate", invalid, most=0))
    result = {
        "ratio": 1 / max(costs),
        "unit": "times the tokens/s of free decoding, the worst of the works",
        "limit_fraction": None,
        "quality": {"outputs": finished, "invalid": invalid},
        "samples": samples["records, 1 at a time"]["constrained"],
        "targets": targets,
        "table": rows,
    }
    return record.report(task, "structured", CLAIM, samples=samples, result=result)


def _prompt(llm: LLM, name: str, number: int) -> Sequence[int]:
    question = f"Write example number {number} of {name} as JSON, with made-up values."
    return llm.encode_chat([{"role": "user", "content": question}])


def _measure(
    llm: LLM, prompts: Sequence[Sequence[int]], schema: dict[str, Any], seed: int, free_first: bool
) -> tuple[list[Completion], dict[str, float]]:
    """Outputs of the schema, and seconds a token with and without it; the order alternates by round."""
    grammar = Grammar.json_schema(schema)
    llm.engine.prepare(grammar)
    settings: dict[str, Any] = {"temperature": 0.0, "seed": seed}
    constrained = SamplingParams(max_tokens=TOKENS, grammar=grammar, **settings)
    lengths = [len(output.token_ids) for output in llm.generate(prompts, constrained)] if free_first else []
    done: list[Completion] = []
    seconds: dict[str, float] = {}
    for kind in ("free", "constrained") if free_first else ("constrained", "free"):
        if kind == "constrained":
            done = llm.generate(prompts, constrained)
            lengths = [len(output.token_ids) for output in done]
            seconds[kind] = _seconds_a_token(done)
        else:
            alike = [SamplingParams(max_tokens=length, ignore_eos=True, **settings) for length in lengths]
            seconds[kind] = _seconds_a_token(llm.generate(prompts, alike))
    return done, seconds


def _seconds_a_token(outputs: Sequence[Completion]) -> float:
    """Of the outputs together, from the last one's first token on."""
    decoding = [output.total_s - output.first_token_s for output in outputs]
    return sum(decoding) / sum(len(output.token_ids) - 1 for output in outputs)


def _valid(output: Completion, schema: dict[str, Any]) -> bool:
    import jsonschema

    try:
        jsonschema.validate(json.loads(output.text), schema)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def _median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def _ms(values: Sequence[float]) -> float:
    return 1000 * statistics.median(values)
