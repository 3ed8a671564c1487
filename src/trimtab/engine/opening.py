"""From the name of a model to an engine that answers: find it, read it, plan its memory, load it.

The only place that knows all of files, configuration, tokenizer, budget and runner; each is imported when it
is needed, so that importing this module costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.errors import DoesNotFit, UsageError

if TYPE_CHECKING:
    from trimtab.engine.batch import Runner
    from trimtab.engine.budget import EnginePlan
    from trimtab.engine.engine import Engine
    from trimtab.engine.prefix_store import PrefixStore
    from trimtab.formats.source import TensorSource
    from trimtab.models.config import ModelConfig
    from trimtab.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Opened:
    """A model in service."""

    name: str
    path: Path
    config: ModelConfig
    tokenizer: Tokenizer
    plan: EnginePlan
    engine: Engine


def open_model(
    model: str | Path = "smollm2",
    *,
    memory: int | str | None = None,
    threads: int | None = None,
    pin: bool = False,
    kv_type: str = "bf16",
    format: str = "auto",
    context: int | None = None,
    device: str = "cpu",
    reserve_bytes: int | None = None,
    prefix_dir: Path | None = None,
    prefix_disk_bytes: int = 10**9,
    on_words_read: Callable[[], None] = lambda: None,
    **settings: Any,
) -> Opened:
    """Load a model and start its engine.

    Parameters
    ----------
    model : a GGUF file, a folder in Hugging Face layout, a pulled name, or a hub id
    memory : ceiling for the whole process, in bytes or like `400MB`; by default what the machine can spare
    threads, pin, kv_type, format : see `NativeRunner.open`
    context : tokens that one request may have; by default what fits, up to 8192
    device : `cpu`, or a torch device such as `cuda`, whose own memory `memory` then means
    reserve_bytes : what the process will still grow by, beside weights and pages
    prefix_dir : folder in which long prompts survive a restart, `prefix_disk_bytes` of them at most
    on_words_read : called when only weights are left to load, which makes no more Python objects
    settings : further fields of `EngineSettings`

    Raises
    ------
    DoesNotFit : the budget is too small; the hint names one that is not
    BadFile, Unsupported, UnknownName, Offline, UsageError : the model cannot be had or read
    """
    from trimtab._native import trim_heap
    from trimtab.engine.engine import Engine, EngineSettings
    from trimtab.formats.source import open_source
    from trimtab.models.config import config_from
    from trimtab.models.tokenizer import load_tokenizer

    path = _resolve(model)
    options = {"kv_type": kv_type, "format": format}
    with closing(open_source(path)) as source:
        config = config_from(source)
        tokenizer = load_tokenizer(source)
        source.forget_metadata()
        on_words_read()
        if device == "cpu":
            runner, plan = _native(source, config, memory, context, reserve_bytes, threads, pin, options)
        else:
            runner, plan = _torch(source, config, memory, context, device, options)
    trim_heap()  # what loading took and gave back stays otherwise
    most = min(plan.max_running, settings.pop("max_running", None) or plan.max_running)
    prefixes = None
    if prefix_dir is not None:
        prefixes = _prefixes(prefix_dir, prefix_disk_bytes, path, config, runner, plan, options)
    promised = plan.promised_bytes is not None
    limits = EngineSettings(context=plan.context, max_running=most, promised=promised, **settings)
    engine = Engine(runner, tokenizer, limits, prefixes=prefixes)
    return Opened(config.name, path, config, tokenizer, plan, engine)


def _resolve(model: str | Path) -> Path:
    if isinstance(model, Path):
        return model
    if not model:
        raise UsageError("the model has no name", "name a file, a folder or a model", "model")
    from trimtab.formats import cache

    return cache.resolve(model, pull=True)


def _native(
    source: TensorSource,
    config: ModelConfig,
    memory: int | str | None,
    context: int | None,
    reserve_bytes: int | None,
    threads: int | None,
    pin: bool,
    options: dict[str, Any],
) -> tuple[Runner, EnginePlan]:
    """A runner on the processor, and its share of the process's memory."""
    from trimtab.engine import budget
    from trimtab.engine.runner import NativeRunner

    scaled_for = context or min(config.context, budget.USUAL_CONTEXT)

    def sizes(rows: int, wanted: int) -> Any:
        return NativeRunner.sizes(
            source, config, max_rows=rows, max_wanted=wanted, context=scaled_for, **options
        )

    first = sizes(*budget.STEPS[0])
    divide = partial(
        budget.plan,
        budget.parse_size(memory) if isinstance(memory, str) else memory,
        base_bytes=budget.resident_bytes(),
        scratch_bytes=lambda rows, wanted: int(sizes(rows, wanted).scratch),
        page_bytes=first.page,
        model_context=config.context,
        context=context,
        available_bytes=budget.available_bytes(),
        # A tensor is read from the mapped file while its packed form is written.
        loading_bytes=max(source.info(name).nbytes for name in source.names()),
        reserve_bytes=budget.RESERVE_BYTES if reserve_bytes is None else reserve_bytes,
        lent_bytes=budget.grammars_bytes(config.vocab_size),
    )
    # The sketch is speed, not substance: a budget that is too small for it does without.
    sketch = first.sketch > 0
    try:
        plan = divide(weights_bytes=first.weights + first.sketch)
    except DoesNotFit:
        sketch, plan = False, divide(weights_bytes=first.weights)
    runner = NativeRunner.open(
        source, config, num_pages=plan.num_pages, max_rows=plan.max_rows, max_wanted=plan.max_wanted,
        context=plan.context, threads=threads, pin=pin, sketch=sketch, **options,
    )  # fmt: skip
    return runner, plan


def _prefixes(
    folder: Path,
    most_bytes: int,
    model: Path,
    config: ModelConfig,
    runner: Runner,
    plan: EnginePlan,
    options: dict[str, str],
) -> PrefixStore:
    """Long prompts of earlier runs, as far as this engine would compute the same pages."""
    from trimtab.engine.identity import identity
    from trimtab.engine.prefix_store import PrefixStore
    from trimtab.engine.runner import NativeRunner

    if not isinstance(runner, NativeRunner):
        raise UsageError(
            "prefixes are kept on disk for models on the CPU only", "leave out --prefix-dir", "prefix_dir"
        )
    # Two kinds of rope choose their factors by the context that the engine is started with.
    scaled = any(rope.kind in ("dynamic", "longrope") for rope in config.ropes)
    settings = {**options, "kernels": runner.kernels, "context": plan.context if scaled else 0}
    return PrefixStore(
        folder,
        most_bytes,
        page_bytes=runner.page(0).nbytes,
        identity=lambda: identity(model, config, memo=folder / "models.json", **settings),
    )


def _torch(
    source: TensorSource,
    config: ModelConfig,
    memory: int | str | None,
    context: int | None,
    device: str,
    options: dict[str, str],
) -> tuple[Runner, EnginePlan]:
    """A runner on a torch device, which has memory of its own."""
    import torch

    from trimtab.engine import budget
    from trimtab.engine.torch_runner import TorchRunner

    chosen: Any = {**options, "dtype": "bf16" if device.startswith("cuda") else "f32"}
    free = torch.cuda.mem_get_info(torch.device(device))[0] if device.startswith("cuda") else None
    sizes = TorchRunner.sizes(source, config, **chosen)
    plan = budget.plan(
        budget.parse_size(memory) if isinstance(memory, str) else memory,
        base_bytes=0,
        weights_bytes=sizes["weights"],
        scratch_bytes=lambda rows, wanted: TorchRunner.sizes(source, config, max_wanted=wanted, **chosen)[
            "scratch"
        ],
        page_bytes=sizes["page"],
        model_context=config.context,
        context=context,
        available_bytes=free,
    )
    runner = TorchRunner.open(
        source, config, num_pages=plan.num_pages, max_rows=plan.max_rows, max_wanted=plan.max_wanted,
        context=plan.context, device=device, **chosen,
    )  # fmt: skip
    return runner, plan
