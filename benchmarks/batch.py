"""32 sequences together give at least 4 times the tokens per second of the fastest peer, 8 at least 3 times.

Work: N prompts of 128 tokens each, 128 greedy tokens for each, all submitted at once; generated tokens over
the whole wall time, prompts included. llama.cpp decodes all sequences in one call a step, with flash
attention and a unified cache by trial (the file as shipped is left out: it reads prompts at a third of the
speed of Q4_0); vLLM, OpenVINO and the others use their own batching. Four sequences must also cost at most
35 % more time a step than one. The limit overlaps memory and arithmetic perfectly, prompts read before.
"""

from __future__ import annotations

import statistics
from typing import Any

from peers import record, roster
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.probe import Limits
from trimtab.machine.report import Report
from trimtab.machine.rounds import Answer, Ask, Race

CLAIM = (__doc__ or "").partition("\n")[0]
PROMPT, TOKENS = 128, 128
LEAST = {32: 4.0, 8: 3.0}
SLOW = ["llama.cpp as shipped"]


def run(options: BenchOptions) -> Report:
    task = roster.open_task(options)
    tokens = 16 if options.quick else TOKENS
    positions = PROMPT + TOKENS + 16
    with roster.contest(task, sequences=max(LEAST), positions=positions, leave=SLOW) as contest:
        quality = record.perplexities(task, contest, 1)
        races = {count: contest.race(_ask(task, count, tokens), options.rounds) for count in LEAST}
        work = record.work_of(task, contest)
        targets: list[Any] = []
        rows: list[Any] = []
        fractions: dict[str, float] = {}
        for count, race in races.items():
            rows += [{"sequences": count, **row} for row in record.table(contest, race, "tok/s", quality)]
            best = race.fastest(besides=roster.OURS)
            if work is None or best is None:
                continue

            def most(limits: Limits, _: Answer, count: int = count) -> float:
                return count * tokens / _least_seconds(work, limits, count, tokens)

            fractions[str(count)] = race.limit_fraction(roster.OURS, most)
            ratio = race.ratio(roster.OURS, best)
            targets.append(target(f"{count} sequences: times {best}", ratio, least=LEAST[count]))
        steps = []
        if work is not None:
            # One and four sequences by turns, so that both see the same machine.
            turns = [
                [contest.race(_ask(task, count, tokens, turn), 1, [roster.OURS]) for count in (1, 4)]
                for turn in range(options.rounds)
            ]
            ratio = statistics.median(_step_seconds(four) / _step_seconds(one) for one, four in turns)
            targets.append(target("step of 4 sequences over step of 1", ratio, most=1.35))
            steps = [Race.joined(races) for races in zip(*turns, strict=True)]
        result = {
            "ratio": targets[0]["value"] if fractions else None,
            "unit": f"times the tokens/s of the fastest peer, {max(LEAST)} sequences",
            "limit_fraction": fractions.get(str(max(LEAST))),
            "limit_fractions": fractions,
            "quality": {"perplexity": quality},
            "samples": races[max(LEAST)].values.get(roster.OURS),
            "targets": targets,
            "table": rows,
        }
        every = [*races.values(), *steps]
        return record.report(task, "batch", CLAIM, contest=contest, races=every, result=result)


def _ask(task: roster.Task, count: int, tokens: int, turn: int = 0) -> Ask:
    def arguments(number: int) -> dict[str, Any]:
        return {"prompts": task.windows(number + turn, count, PROMPT), "tokens": tokens}

    return Ask(
        f"batch {count}",
        "batch",
        arguments,
        lambda answer: answer["tokens"] / answer["seconds"],
        {"tokens": min(tokens, 16)},
    )


def _least_seconds(work: record.Work, limits: Limits, count: int, tokens: int) -> float:
    prompts = count * work.prefill_seconds(limits, PROMPT)
    return prompts + (tokens - 1) * work.step_seconds(limits, count, PROMPT + tokens / 2)


def _step_seconds(race: Race) -> float:
    return statistics.median(answer["step_seconds"] for answer in race.answers[roster.OURS])
