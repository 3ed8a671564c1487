"""A prompt of 512 tokens is read at least 2.5 times as fast as the fastest peer reads it.

Work: 512 tokens of text to the first token of the answer, nothing cached, four requests in a row. All peers
take part at the settings named in their drivers, OpenVINO with int8 and int4 weights and oneDNN's int8
products through torch included; llama.cpp with the shipped file, Q4_0 and Q8_0, flash attention on or off.
Target: at least 2.5 times the fastest, and 55 % of the processor's int8 peak with attention counted at its
float peak.
"""

from __future__ import annotations

from typing import Any

from peers import record, roster
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.probe import Limits
from trimtab.machine.report import Report
from trimtab.machine.rounds import Answer, Ask

CLAIM = (__doc__ or "").partition("\n")[0]
TOKENS = 512
PROMPTS = 4  # of a round, one after the other


def run(options: BenchOptions) -> Report:
    task = roster.open_task(options)

    def arguments(number: int) -> dict[str, Any]:
        return {"each": [{"prompt": prompt} for prompt in task.windows(number, PROMPTS, TOKENS)]}

    with roster.contest(task, sequences=1, positions=TOKENS + 128) as contest:
        quality = record.perplexities(task, contest, 1 if options.quick else 2)
        ask = Ask("prefill", "prefill", arguments, lambda answer: answer["tokens"] / answer["seconds"])
        race = contest.race(ask, options.rounds)
        work = record.work_of(task, contest)

        def most(limits: Limits, _: Answer) -> float:
            return TOKENS / work.prefill_seconds(limits, TOKENS) if work else float("inf")

        fraction = record.middle_fraction(race, most)
        best = race.fastest(besides=roster.OURS)
        ratio = race.ratio(roster.OURS, best) if best and fraction is not None else None
        targets = []
        if ratio is not None:
            targets.append(target(f"times {best}", ratio, least=2.5))
        if fraction is not None:
            targets.append(target("share of the int8 limit", fraction, least=0.55))
        result = {
            "ratio": ratio,
            "unit": "times the prompt tokens/s of the fastest peer",
            "fastest_other": best,
            "limit_fraction": fraction,
            "quality": {"perplexity": quality},
            "samples": race.values.get(roster.OURS),
            "targets": targets,
            "table": record.table(contest, race, "tok/s", quality),
        }
        return record.report(task, "prefill", CLAIM, contest=contest, races=[race], result=result)
