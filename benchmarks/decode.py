"""One sequence decodes at least twice as fast as llama.cpp at its fastest setting.

Work: 128 greedy tokens after 32 of prompt, and 128 around a context of 256; the time of the first token is
left out, the end-of-text token is ignored. llama.cpp runs the shipped file and its own requantized Q4_0 and
Q8_0, with flash attention and a unified cache on or off, whichever is faster. All others run at the
settings named in their drivers. trimtab drafts no tokens here; with drafting it is shown as a contender of
its own. Target: at least 2.0 times llama.cpp, and 65 % of what the memory delivers for the bytes that one
step reads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from peers import record, roster
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.probe import Limits
from trimtab.machine.report import Report
from trimtab.machine.rounds import Answer, Ask

CLAIM = (__doc__ or "").partition("\n")[0]
TOKENS = 128
PROMPTS = {"decode": 32, "decode at 256": 192}  # the second one ends between 192 and 320


def run(options: BenchOptions) -> Report:
    task = roster.open_task(options)
    tokens = 32 if options.quick else TOKENS
    ours: dict[str, dict[str, Any]] = {roster.OURS: {}, "trimtab with drafts": {"drafting": True}}
    with roster.contest(task, sequences=1, positions=512, ours=ours) as contest:
        quality = record.perplexities(task, contest, 1 if options.quick else 2)
        races = [contest.race(_ask(task, label, tokens), options.rounds) for label in PROMPTS]
        work = record.work_of(task, contest)
        targets, fractions, strict = [], {}, {}
        for race in races:
            if work is None:
                break
            context = PROMPTS[race.label] + tokens / 2

            def most(limits: Limits, _: Answer, context: float = context) -> float:
                return 1 / work.step_seconds(limits, 1, context)

            def most_at_best(limits: Limits, answer: Answer, most: Any = most) -> float:
                undisturbed = replace(limits, read_bytes_per_s=limits.best_read_bytes_per_s)
                return float(most(undisturbed, answer))

            fractions[race.label] = race.limit_fraction(roster.OURS, most)
            strict[race.label] = race.limit_fraction(roster.OURS, most_at_best)
            targets.append(
                target(f"{race.label}: share of the memory's limit", fractions[race.label], least=0.65)
            )
            rivals = [name for name in race.values if name.startswith("llama.cpp")]
            if rivals:
                best = max(rivals, key=race.median)
                ratio = race.ratio(roster.OURS, best)
                targets.append(target(f"{race.label}: times {best}", ratio, least=2.0))
        first = races[0]
        fastest = first.fastest(besides=roster.OURS) if work else None
        result = {
            "ratio": next((t["value"] for t in targets if "times" in t["what"]), None),
            "unit": "times the tokens/s of the fastest llama.cpp",
            "fastest_other": fastest,
            "limit_fraction": fractions.get(first.label),
            "limit_fractions": fractions,
            "limit_fractions_of_fastest_pass": strict,
            "quality": {"perplexity": quality},
            "samples": first.values.get(roster.OURS),
            "targets": targets,
            "table": [
                row
                for race in races
                for row in _labelled(race.label, record.table(contest, race, "tok/s", quality))
            ],
        }
        return record.report(task, "decode", CLAIM, contest=contest, races=races, result=result)


def _ask(task: roster.Task, label: str, tokens: int) -> Ask:
    def arguments(number: int) -> dict[str, Any]:
        return {"prompt": task.windows(number, 1, PROMPTS[label])[0], "tokens": tokens}

    return Ask(
        label, "decode", arguments, lambda answer: answer["tokens"] / answer["seconds"], {"tokens": 32}
    )


def _labelled(label: str, rows: list[Any]) -> list[Any]:
    return [{"work": label, **row} for row in rows]
