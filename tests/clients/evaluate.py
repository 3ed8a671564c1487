"""lm-evaluation-harness on one small task, against a server or against the library; prints scores as JSON.

python evaluate.py TASKS_FOLDER server URL MODEL
python evaluate.py TASKS_FOLDER library MODEL_FILE
"""

from __future__ import annotations

import json
import sys
from typing import Any

import lm_eval
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager

from trimtab import LLM, SamplingParams


class Library(TemplateLM):
    """The engine in this process, scored from its own prompt log-probabilities."""

    def __init__(self, llm: LLM) -> None:
        super().__init__()
        self.llm = llm
        names = llm.tokenizer.special_names
        self.end = self.tok_encode(names["eos_token"])[0]
        # What the harness puts before a text that follows nothing.
        self.prefix = self.tok_encode(names.get("bos_token", names["eos_token"]))[0]

    @property
    def eot_token_id(self) -> int:
        return self.end

    @property
    def prefix_token_id(self) -> int:
        return self.prefix

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return list(self.llm.tokenizer.encode(string, add_special=False))

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        params = SamplingParams(max_tokens=0, prompt_logprobs=1)
        completions = self.llm.generate([before + after for _, before, after in requests], params)
        found = []
        for (_, before, _after), completion in zip(requests, completions, strict=True):
            entries = [entry for entry in completion.prompt_logprobs or () if entry is not None]
            told = entries[len(before) - 1 :]
            best = all(entry.logprob == max(entry.logprob, entry.top[0][1]) for entry in told)
            found.append((sum(entry.logprob for entry in told), best))
        return found

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError


def main() -> None:
    tasks, kind, where, *rest = sys.argv[1:]
    model: Any = "local-completions"
    more: dict[str, Any] = {}
    if kind == "server":
        settings = {
            "model": rest[0],
            "base_url": f"{where}/v1/completions",
            "num_concurrent": 4,
            "batch_size": 8,
        }
        more = {"model_args": settings}
    else:
        model = Library(LLM(where))
    found = lm_eval.simple_evaluate(
        model, tasks=["small_choice"], task_manager=TaskManager(include_path=tasks, include_defaults=False),
        bootstrap_iters=0, **more,
    )  # fmt: skip
    scores = {
        name: value for name, value in found["results"]["small_choice"].items() if name.endswith(",none")
    }
    samples = [[list(pair[0]) for pair in sample["resps"]] for sample in found["samples"]["small_choice"]]
    print(json.dumps({"scores": scores, "samples": samples}))


if __name__ == "__main__":
    main()
