"""Whether a model will fit a memory limit, told without running it; and what happens when it is run there.

The prediction is the engine's own budget arithmetic (`RunnerSizes`, pages of the context) on top of what the
server's process takes before it has weights. The trial starts the server under a real limit, with a promise
so large that its own check cannot refuse, and sends a prompt that fills the context: what ends it is the
kernel.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trimtab.engine.budget import STEPS
from trimtab.errors import TrimtabError
from trimtab.evaluate.device.driver import EngineFailed, Launch, Stopped
from trimtab.evaluate.device.plan import Device, Limits

KINDS = Literal["group", "resident"]
GROWTH_BYTES = 10 << 20
"""What the server grows by with its first long request: the request itself, thread stacks, page tables."""

# Everything the server has before its weights; prints (private, file-backed) bytes.
_PROCESS = """
import gc, os, sys
gc.disable()
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
from pathlib import Path
from trimtab.formats.source import open_source
from trimtab.models.config import config_from
from trimtab.models.tokenizer import load_tokenizer
from trimtab._native import trim_heap
import trimtab.cli.serve, trimtab.server.launch, trimtab.server.app, trimtab.server.process
import trimtab.models.chat, trimtab.engine.engine, trimtab.engine.runner
source = open_source(Path(sys.argv[1]))
keep = config_from(source), load_tokenizer(source)
source.forget_metadata()
trim_heap()
told = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(*(int(told[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")))
"""


@dataclass(frozen=True, slots=True)
class Fit:
    """A prediction, with what it is made of."""

    limit_bytes: int
    process_bytes: int
    weights_bytes: int
    scratch_bytes: int
    cache_bytes: int

    @property
    def needed_bytes(self) -> int:
        return self.process_bytes + self.weights_bytes + self.scratch_bytes + self.cache_bytes

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.limit_bytes


def process_bytes(model: Path, kind: KINDS = "group") -> int:
    """Memory of a server before its weights, from a process that loads everything but them.

    Parameters
    ----------
    kind : `group` counts what a control group cannot give back, `resident` file-backed pages too

    Raises
    ------
    TrimtabError : the model's file cannot be read
    """
    ended = subprocess.run(
        [sys.executable, "-c", _PROCESS, str(model)], capture_output=True, text=True, timeout=120, check=False
    )
    if ended.returncode:
        raise TrimtabError(f"{model} cannot be read: {ended.stderr.strip()[-300:]}")
    private, in_files = map(int, ended.stdout.split())
    return private + GROWTH_BYTES + (in_files if kind == "resident" else 0)


def predict_fit(
    model: Path, limit_bytes: int, *, format: str = "auto", context: int = 2048, kv_type: str = "bf16",
    kind: KINDS = "group", before_weights: int | None = None,
) -> Fit:  # fmt: skip
    """Whether a server of this model can hold a full context under a limit; no weight is read.

    Parameters
    ----------
    before_weights : from `process_bytes`, when it is known already
    """
    from trimtab.engine.pages import pages_for
    from trimtab.engine.runner import NativeRunner
    from trimtab.formats.source import open_source
    from trimtab.models.config import config_from

    process = process_bytes(model, kind) if before_weights is None else before_weights
    rows, wanted = STEPS[0]
    with closing(open_source(model)) as source:
        sizes = NativeRunner.sizes(
            source, config_from(source), max_rows=rows, max_wanted=wanted, context=context, kv_type=kv_type,
            format=format,
        )  # fmt: skip
    return Fit(
        limit_bytes, process, sizes.weights + sizes.sketch, sizes.scratch, pages_for(context) * sizes.page
    )


def try_fit(
    model: Path, limit_bytes: int, *, format: str = "auto", context: int = 2048, threads: int | None = None,
    timeout_s: float = 180.0,
) -> tuple[bool, Stopped]:  # fmt: skip
    """Run it under the limit, and fill the context once.

    Returns
    -------
    whether it answered, and how it ended

    Raises
    ------
    EngineFailed : it failed for another reason than memory, which says nothing about the fit
    """
    from trimtab.evaluate.device.limited import Limited

    device = Device(name="trial", driver="cgroup", limits=Limits(memory_bytes=limit_bytes))
    driver = Limited(device)
    # The promise is beyond every limit tried here, so that the engine's own arithmetic lets it pass.
    flags = ["--port", "{port}", "--context", str(context), "--format", format]
    flags += ["--memory", f"{limit_bytes + (8 << 30)}"]
    if threads is not None:
        flags += ["--threads", str(threads)]
    start = "from trimtab.cli.main import main; main()"
    launch = Launch("trimtab", model, (sys.executable, "-c", start, "serve", "{model}", *flags))
    answered = False
    try:
        driver.prepare()
        session = driver.start(launch)
        answered = _fill(session.url, session.model(), context, timeout_s)
    except EngineFailed as error:
        if error.ending == "crashed":
            raise
    finally:
        stopped = driver.stop()
        driver.discard()
    if not answered and stopped.ending != "out of memory":
        raise EngineFailed(f"it failed, and not for want of memory: {stopped.detail}", stopped.ending)
    return answered, stopped


def _fill(url: str, name: str, context: int, timeout_s: float) -> bool:
    """Whether a prompt that fills the context but for a few tokens is answered."""
    import http.client
    import json
    from urllib.parse import urlsplit

    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=timeout_s)
    prompt = [1000 + 7 * index % 4000 for index in range(context - 8)]
    body = {"model": name, "prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status == 200 and bool(json.loads(response.read())["choices"])
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return False
    finally:
        connection.close()
