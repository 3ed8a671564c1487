"""The shipped file's perplexity differs from llama.cpp's on the same file and text by at most 0.5 %.

Work: chunks of 512 tokens, the second half of each scored given everything before it in the chunk; equal
tokens for everyone. The Kullback-Leibler divergence compares each contender's distributions with those of
the same weights dequantised to bf16 and run by Transformers, over four chunks. llama.cpp's requantized
files are shown beside, as the price of its faster formats. `--text FILE` takes another text than the
bundled one.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from peers import record, roster
from peers.record import CHUNK
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.report import Report
from trimtab.machine.rounds import Contest
from trimtab.machine.worker import WorkerFailed

CLAIM = (__doc__ or "").partition("\n")[0]
SHIPPED = "llama.cpp as shipped"
REFERENCE = "Transformers bf16"
MOST_CHUNKS = 40
KL_CHUNKS = 4


def run(options: BenchOptions) -> Report:
    task = roster.open_task(options)
    chunks = min(2 if options.quick else MOST_CHUNKS, len(task.tokens) // CHUNK)
    leave = [entry.title for entry in roster.ROSTER if entry.peer in ("openvino", "onnx", "vllm_cpu")]
    leave.append("Transformers oneDNN int8")
    invited = options.model_copy(update={"only": options.only or "llama_cpp,transformers"})
    asked = roster.Task(invited, task.model, task.config, task.tokens, task.threads)
    kinds: dict[str, dict[str, Any]] = {roster.OURS: {}}
    if not options.quick:
        kinds["trimtab int8 cache"] = {"kv_type": "int8"}
    with roster.contest(asked, sequences=1, positions=CHUNK, ours=kinds, leave=leave) as contest:
        samples = _nll(task, contest, chunks)
        found = {name: math.exp(sum(parts) / (len(parts) * CHUNK / 2)) for name, parts in samples.items()}
        divergence = _divergence(task, contest, 1 if options.quick else KL_CHUNKS)
        targets = []
        ratio = None
        if roster.OURS in found and SHIPPED in found:
            ratio = found[roster.OURS] / found[SHIPPED]
            targets.append(target("perplexity beside llama.cpp's, difference", abs(ratio - 1), most=0.005))
        rows = [
            {"contender": name, "perplexity": value, "KL to bf16": divergence.get(name)}
            for name, value in sorted(found.items(), key=lambda pair: pair[1])
        ]
        result = {
            "ratio": ratio,
            "unit": "times llama.cpp's perplexity, same file and text",
            "limit_fraction": None,
            "quality": {"perplexity": found, "kl_to_bf16": divergence},
            "chunks": chunks,
            "text": str(options.text.name) if options.text else "bundled",
            "samples": samples.get(roster.OURS),
            "targets": targets,
            "table": rows,
        }
        return record.report(task, "quality", CLAIM, contest=contest, samples={"nll": samples}, result=result)


def _nll(task: roster.Task, contest: Contest, chunks: int) -> dict[str, list[float]]:
    """Negative log likelihood of each chunk's second half, by contender."""
    found: dict[str, list[float]] = {}
    for name, worker in list(contest.workers.items()):
        parts = [task.tokens[at : at + CHUNK] for at in range(0, chunks * CHUNK, CHUNK)]
        try:
            found[name] = [worker.call("score", tokens=part, first=CHUNK // 2)["nll"] for part in parts]
        except WorkerFailed as error:
            contest.absent[name] = error.message
    return found


def _divergence(task: roster.Task, contest: Contest, chunks: int) -> dict[str, float]:
    """Mean KL(reference || contender) over the second halves, in nats; empty without a reference."""
    if REFERENCE not in contest.workers:
        return {}
    sums: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.npy"
        for at in range(0, chunks * CHUNK, CHUNK):
            part = task.tokens[at : at + CHUNK]
            wanted = _log_softmax(contest, REFERENCE, part, path)
            for name in contest.workers:
                if name == REFERENCE:
                    continue
                given = _log_softmax(contest, name, part, path)
                each = (np.exp(wanted) * (wanted - given)).sum(axis=1)
                sums[name] = sums.get(name, 0.0) + float(each.mean()) / chunks
    return sums


def _log_softmax(contest: Contest, name: str, tokens: list[int], path: Path) -> npt.NDArray[np.float64]:
    contest.workers[name].call("logits", tokens=tokens, path=str(path))
    rows = np.load(path)[CHUNK // 2 :].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows
