"""What a quantisation costs: word choice and perplexity of one model, and paired differences of two scores.

A format is scored in a process of its own, because a model and its numbers should not stay. Differences are
taken item by item and chunk by chunk of the same text: most of the spread between items is common to both.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError

ITEMS, CHUNK = 1000, 256
DOCUMENTATION_CHUNKS = 40
RESAMPLES = 2000
_LONGEST_S = 900.0


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of paired differences, with the interval that 95 % of resamples fall into."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


def paired(mine: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Difference:
    """Bootstrap of `mine - theirs` over pairs, percentile interval (Efron 1979)."""
    if len(mine) != len(theirs) or not mine:
        raise ValueError(f"{len(mine)} and {len(theirs)} values make no pairs")
    gaps = [a - b for a, b in zip(mine, theirs, strict=True)]
    draw, size = random.Random(seed), len(gaps)
    means = sorted(math.fsum(draw.choices(gaps, k=size)) / size for _ in range(RESAMPLES))
    cut = round(0.025 * RESAMPLES)
    return Difference(math.fsum(gaps) / size, means[cut], means[-cut - 1])


def score(
    model: Path, format: str, *, items: int = ITEMS, chunks: int = DOCUMENTATION_CHUNKS,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Score a model in a format.

    Returns
    -------
    `right` (items,) 0 or 1; `nll` (chunks,) mean negative log likelihood of each chunk's second half, of the
    bundled text and then of the documentation; `accuracy` and `perplexity` over them; `digest` of the items

    Raises
    ------
    TrimtabError : the model cannot be run in that format
    """
    say(f"  accuracy of {model.name} as {format}: {items} word choices, {chunks} chunks")
    command = [sys.executable, "-m", __name__, str(model), format, str(items), str(chunks)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    if ended.returncode:
        raise TrimtabError(f"{model.name} as {format} could not be scored: {ended.stderr.strip()[-500:]}")
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return answer


def _score(model: Path, format: str, number: int, chunks: int) -> dict[str, Any]:
    from trimtab import LLM, SamplingParams
    from trimtab.evaluate.device import word_choice

    with LLM(model, format=format, context=2048) as llm:
        tokenizer = llm.tokenizer

        def tokens_of(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special=False, parse_special=False))

        questions = word_choice.items(number, lambda word: tokens_of(" " + word)[0])
        prompts, params, wanted = [], [], []
        for item in questions:
            firsts = [tokens_of(" " + word)[0] for word in item.words]
            prompts.append(tokens_of(item.context))
            wanted.append(firsts[item.answer])
            # With the greatest bias on the four, the greedy token is the likeliest of them.
            params.append(
                SamplingParams(
                    temperature=0.0, max_tokens=1, ignore_eos=True, logit_bias=dict.fromkeys(firsts, 100.0)
                )
            )
        said = [completion.token_ids[0] for completion in llm.generate(prompts, params)]
        right = [int(token == answer) for token, answer in zip(said, wanted, strict=True)]
        nll = []
        for text, most in ((_bundled(), 1000), (" ".join(word_choice.documentation()), chunks)):
            tokens = tokens_of(text)[: most * CHUNK]
            for at in range(0, len(tokens) - CHUNK + 1, CHUNK):
                scores = llm.score(tokens[at : at + CHUNK])[CHUNK // 2 - 1 :]
                nll.append(-float(scores.mean(dtype="float64")))
    return {
        "right": right,
        "nll": nll,
        "accuracy": sum(right) / len(right) if right else None,
        "perplexity": math.exp(sum(nll) / len(nll)) if nll else None,
        "digest": word_choice.digest(questions),
    }


def _bundled() -> str:
    import trimtab

    return (Path(trimtab.__file__).parent / "data" / "text.txt").read_text(encoding="utf-8")


if __name__ == "__main__":
    result = _score(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps(result))
