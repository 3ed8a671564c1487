"""Who takes part in the benchmarks, with which files and settings, and which text they are all given.

Forms of the model that only a peer reads (requantized GGUF, safetensors, compiled graphs) are made once, by
the peer's own tools, and kept beside the environments.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.errors import TrimtabError, UsageError
from trimtab.formats import cache
from trimtab.formats.source import open_source
from trimtab.machine import peers, probe
from trimtab.machine.bench import BenchOptions
from trimtab.machine.rounds import Contender, Contest
from trimtab.machine.worker import Worker
from trimtab.models.config import ModelConfig, config_from
from trimtab.models.tokenizer import load_tokenizer

HERE = Path(__file__).resolve().parent
TEXT = Path(sys.modules["trimtab"].__file__ or "").parent / "data" / "text.txt"
SEED = 20_260_101
OURS = "trimtab"

FLASH = [{"flash": flash, "unified": unified} for flash in (True, False) for unified in (True, False)]
BACKENDS = [{"backend": "PA"}, {"backend": "SDPA"}]
ATTENTION = [{"attention": "sdpa"}, {"attention": "sdpa", "static": True}, {"attention": "eager"}]


@dataclass(frozen=True, slots=True)
class Entry:
    """A contender before its files exist: which peer, and the form of the model it reads.

    Parameters
    ----------
    makers : (peer, form) one after the other; each turns the file of the one before into its own
    """

    title: str
    peer: str
    makers: Sequence[tuple[str, str]] = ()
    load: Mapping[str, Any] = field(default_factory=dict)
    choices: Sequence[Mapping[str, Any]] = ({},)


_FOLDER = ("transformers", "hf")
ROSTER = (
    Entry("llama.cpp as shipped", "llama_cpp", choices=FLASH),
    Entry("llama.cpp Q4_0", "llama_cpp", [("llama_cpp", "q4_0")], choices=FLASH),
    Entry("llama.cpp Q8_0", "llama_cpp", [("llama_cpp", "q8_0")], choices=FLASH),
    Entry("vLLM bf16", "vllm_cpu", [_FOLDER]),
    Entry("Transformers bf16", "transformers", [_FOLDER], choices=ATTENTION),
    Entry("Transformers oneDNN int8", "transformers", [_FOLDER], {"form": "int8"}, ATTENTION),
    Entry("OpenVINO GGUF", "openvino", choices=BACKENDS),
    Entry("OpenVINO int8", "openvino", [_FOLDER, ("openvino", "int8")], choices=BACKENDS),
    Entry("OpenVINO int4", "openvino", [_FOLDER, ("openvino", "int4")], choices=BACKENDS),
    Entry("ONNX Runtime int4", "onnx", [_FOLDER, ("onnx", "int4")]),
)


@dataclass(frozen=True, slots=True)
class Task:
    """What a benchmark works on: the file, its sizes, and tokens of the text."""

    options: BenchOptions
    model: Path
    config: ModelConfig
    tokens: list[int]
    threads: int

    def windows(self, number: int, count: int, length: int) -> list[list[int]]:
        """`count` stretches of the text, drawn anew for each round and equal for everyone in it."""
        draw = random.Random(SEED + number)
        last = len(self.tokens) - length
        if last < count:
            raise UsageError(
                f"the text has {len(self.tokens)} tokens, too few for {count} x {length}", param="text"
            )
        return [self.tokens[at : at + length] for at in draw.sample(range(last), count)]

    def limits(self) -> probe.Limits:
        return probe.measure(self.threads, 0.1 if self.options.quick else 0.25)


def open_task(options: BenchOptions) -> Task:
    """Find the model, and cut the text into its tokens."""
    model = cache.resolve(options.model, pull=True)
    source = open_source(model)
    text = (options.text or TEXT).read_text(encoding="utf-8")
    tokens = load_tokenizer(source).encode(text, add_special=False, parse_special=False)
    config = config_from(source)
    source.close()
    return Task(options, model, config, tokens, options.threads or probe.describe().usable)


@contextmanager
def contest(
    task: Task, *, sequences: int, positions: int, ours: Mapping[str, Mapping[str, Any]] | None = None,
    leave: Sequence[str] = (),
) -> Iterator[Contest]:  # fmt: skip
    """Everyone who can run here, loaded for `sequences` of at most `positions` tokens.

    Parameters
    ----------
    ours : trimtab's contenders, by name, with what their `load` takes beside the common settings
    leave : titles that have no part in this benchmark
    """
    common = {"threads": task.threads, "sequences": sequences, "positions": positions}
    absent: dict[str, str] = {}
    contenders = [
        _contender(name, OURS, task.model, {**common, **settings})
        for name, settings in (ours or {OURS: {}}).items()
    ]
    for entry in ROSTER:
        if not _invited(task.options, entry) or entry.title in leave:
            continue
        try:
            file = artefact(task.model, entry.makers, say_of(task.options))
        except TrimtabError as error:
            absent[entry.title] = error.message
            continue
        contenders.append(_contender(entry.title, entry.peer, file, {**common, **entry.load}, entry.choices))
    patience = 0 if task.options.quick else task.options.patience_seconds
    with Contest(
        contenders, limits=task.limits, patience_seconds=patience, say=say_of(task.options)
    ) as started:
        started.absent.update(absent)
        yield started


def artefact(model: Path, makers: Sequence[tuple[str, str]], say: Callable[[str], None]) -> Path:
    """The model in the form that the last of `makers` makes; made now if it is not there.

    Raises
    ------
    UsageError, WorkerFailed : a peer that is needed is not installed, or fails
    """
    with model.open("rb") as file:
        mark = hashlib.sha256(file.read(1 << 20) + str(model.stat().st_size).encode()).hexdigest()[:12]
    folder = peers.home() / "files" / f"{model.stem}-{mark}"
    at = model
    for peer, form in makers:
        path = folder / (f"{peer}-{form}.gguf" if peer == "llama_cpp" else f"{peer}-{form}")
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            say(f"{peers.PEERS[peer].title} makes {form} of {at.name}")
            with start(peer) as worker:
                worker.call("prepare", model=str(at), path=str(path), form=form, timeout_seconds=1800)
        at = path
    return at


def start(peer: str) -> Worker:
    """A fresh process of a peer, or of trimtab.

    Raises
    ------
    UsageError : the peer is not installed
    """
    if peer == OURS:
        python = Path(sys.executable)
    else:
        lacks = peers.missing(peer)
        if lacks:
            raise UsageError(f"it lacks {', '.join(lacks)}", f"make it with `trimtab bench --install {peer}`")
        python = peers.python_of(peer)
    return Worker(peer, [str(python), str(HERE / f"{peer}_peer.py")], environment_of(peer))


def environment_of(peer: str) -> dict[str, str]:
    """What a peer's own guide says to set."""
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if peer != "vllm_cpu":
        return offline
    library = peers.python_of(peer).parents[1] / "lib" / "libiomp5.so"
    return offline | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "auto",
        "VLLM_NO_USAGE_STATS": "1",
        **({"LD_PRELOAD": str(library)} if library.exists() else {}),
    }


def say_of(options: BenchOptions) -> Callable[[str], None]:
    """Talk goes to stderr; with `--json` there is none."""
    return (
        (lambda line: None) if options.json_only else (lambda line: print(line, file=sys.stderr, flush=True))
    )


def _invited(options: BenchOptions, entry: Entry) -> bool:
    if options.wanted:
        return entry.peer in options.wanted
    return not options.quick or entry.title == "llama.cpp Q4_0"


def _contender(
    name: str, peer: str, file: Path, load: Mapping[str, Any], choices: Sequence[Mapping[str, Any]] = ({},)
) -> Contender:
    return Contender(name, lambda: start(peer), {"model": str(file), **load}, choices)
