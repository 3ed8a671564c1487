"""What can be timed: a model on an engine, behind one small interface. Here: trimtab's own, in this process.

A target is given token ids and says when the first token came and when the last one. Prefix caching and
drafting are off where that can be chosen, because either breaks the rule that equal lengths take equal time;
`modes` says what is so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from trimtab.errors import UsageError

if TYPE_CHECKING:
    from trimtab.machine.requests.prior import WorkShape

Floats = npt.NDArray[np.float32]
ENGINES = ("trimtab", "llamacpp", "vllm")


class Target(Protocol):
    """A model on an engine.

    `run` submits prompts together and returns the seconds until the last of them had its first token and
    until all were complete, or None when an output had another length than asked for.
    """

    model: str
    engine: str
    settings: Mapping[str, Any]
    modes: Mapping[str, str]
    context: int
    vocabulary: int
    overhead_s: float

    def run(self, prompts: Sequence[Sequence[int]], output: int) -> tuple[float, float] | None: ...
    def memory_bytes(self) -> tuple[int, str] | None: ...
    def score(self, text: str) -> Floats | str: ...
    def logits(self, tokens: Sequence[int]) -> Floats | None: ...
    def encode(self, text: str) -> list[int] | None: ...
    def shape(self) -> WorkShape | None: ...
    def close(self) -> None: ...


class Inside:
    """trimtab's engine in this process.

    Parameters
    ----------
    model : file, folder, pulled name or hub id
    options : as `LLM` takes them: `threads`, `format`, `kv_type`, `context`, `memory`
    """

    engine = "trimtab"
    overhead_s = 0.0
    modes: Mapping[str, str] = {"prefix caching": "off", "drafting": "off", "path": "in process"}

    def __init__(self, model: str | Path, **options: Any) -> None:
        from trimtab.engine.llm import LLM
        from trimtab.machine.requests.profile import model_identity

        self._llm = LLM(model, **{"sharing": False, "drafting": False, "context": None, **options})
        engine = self._llm.engine
        self.model = model_identity(self._llm._opened.path)
        self.context, self.vocabulary = engine.context, int(self._llm.config.vocab_size)
        kept = {"format": "auto", "kv_type": "bf16", **options}
        threads = getattr(engine.runner, "threads", None)
        self.settings: Mapping[str, Any] = {
            "threads": threads,
            "format": kept["format"],
            "kv_type": kept["kv_type"],
        }
        self._longest = 0

    def run(self, prompts: Sequence[Sequence[int]], output: int) -> tuple[float, float] | None:
        from trimtab.engine.sampling import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=True)
        self._longest = max(self._longest, len(prompts) * (max(map(len, prompts)) + output))
        engine = self._llm.engine
        if len(prompts) == 1:
            handles = [engine.submit(prompts[0], params)]
        else:
            with engine.hold():
                handles = [engine.submit(prompt, params) for prompt in prompts]
        done = [handle.result() for handle in handles]
        if any(len(each.token_ids) != output or each.cached_tokens for each in done):
            return None
        return max(each.first_token_s for each in done), max(each.total_s for each in done)

    def memory_bytes(self) -> tuple[int, str]:
        """Weights, working memory, and the pages of the largest run so far."""
        runner: Any = self._llm.engine.runner
        memory = runner.memory
        share = min(1.0, -(-self._longest // 16) / max(1, runner.num_pages))
        used = memory["weights"] + memory["scratch"] + share * memory["pages"]
        return int(used), "weights, scratch, KV in use"

    def score(self, text: str) -> Floats:
        """Log probabilities of the text's tokens, those that `LLM.perplexity` counts."""
        window = min(512, self.context)
        scores = self._llm._scores(self._llm._windows(text, window))
        return np.concatenate([each[min(window // 2, len(each) - 1) :] for each in scores])

    def logits(self, tokens: Sequence[int]) -> Floats:
        return self._llm.logits(tokens)

    def encode(self, text: str) -> list[int]:
        return list(self._llm.tokenizer.encode(text, add_special=False, parse_special=False))

    def shape(self) -> WorkShape:
        """The work of a token, for a prior."""
        from trimtab import _native
        from trimtab.machine.requests.prior import WorkShape

        config, runner = self._llm.config, self._llm.engine.runner
        numbers = {"bf16": 2.0, "f32": 4.0, "int8": 1.0}[str(self.settings["kv_type"])]
        kernels = getattr(runner, "kernels", "")
        kind = "bf16" if self.settings["format"] == "bf16" else "int8"
        return WorkShape.of(
            layers=config.layers, hidden=config.hidden, heads=config.heads, kv_heads=config.kv_heads,
            head_dim=config.head_dim, mlp=config.mlp, vocab=config.vocab_size, dtype=kind,
            weight_bytes=int(getattr(runner, "step_bytes", 0) or runner.memory["weights"]),
            kv_number_bytes=numbers,
            row_block=_native.choose_kernels(kernels).many_rows if kernels else 1,
        )  # fmt: skip

    def close(self) -> None:
        self._llm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_target(engine: str, model: str, **options: Any) -> Target:
    """A target by engine and model.

    Parameters
    ----------
    engine : `trimtab` (in this process), `llamacpp` or `vllm` (their own servers, started here), or the
        address of a server that speaks OpenAI's protocol
    model : file, folder, pulled name or hub id; of an address, a name its server knows, "" for its first
    options : of `Inside`, or `threads` for a server that is started

    Raises
    ------
    UsageError : no such engine, or one that is not installed
    Offline : no server at the address
    """
    if engine == "trimtab":
        return Inside(model, **options)
    if engine.startswith(("http://", "https://")):
        from trimtab.evaluate.http_target import HttpTarget

        return HttpTarget(engine, model)
    if engine in ENGINES:
        from trimtab.evaluate.started import start

        return start(engine, model, threads=options.get("threads"))
    raise UsageError(
        f"no engine `{engine}`", f"choose {', '.join(ENGINES)} or the address of a server", "engine"
    )
