"""Feeds damaged and hostile model files to the readers, in a process of its own with little memory.

Usage: `python fuzz_worker.py FORMAT SEED CASES FOLDER [MODEL]`. Every case is a function of its number, so
one failure is repeated with `--only NUMBER`. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hand_made import (
    CONFIG,
    SMALL_TENSORS,
    safetensors_bytes,
    safetensors_header,
    small_gguf,
    small_safetensors,
)

from trimtab.errors import BadFile, TrimtabError, Unsupported
from trimtab.formats.ggml_types import GGUF_TYPES
from trimtab.formats.source import TensorSource, open_source
from trimtab.models.config import config_from
from trimtab.models.tokenizer import load_tokenizer

EXTRA_BYTES = 128 << 20  # address space beyond what the interpreter holds before the first case
LIMIT_S = 20.0  # for one case, on a machine with busy neighbours; the usual case takes a millisecond
NUMBERS = (0, 1, 7, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40,
           (1 << 62) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 8, (1 << 64) - 1)  # fmt: skip


def damage(random_: random.Random, data: bytearray, fields: list[tuple[int, int]]) -> bytearray:
    """One to three accidents: a cut, flipped bits, hostile numbers in fields, moved or foreign bytes."""
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        if len(data) < 2:
            break
        at = random_.randrange(len(data))
        kind = random_.randrange(8)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            for _ in range(random_.randrange(1, 9)):
                data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
        elif kind in (2, 3, 4):
            position, width = random_.choice(fields)
            old = int.from_bytes(data[position : position + width], "little")
            value = random_.choice((*NUMBERS, len(data), len(data) + 1, old + 1, old - 1, old * 2))
            data[position : position + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
        elif kind == 5:
            data[at:at] = random_.randbytes(random_.randrange(1, 40))
        elif kind == 6:
            del data[at : at + random_.randrange(1, 40)]
        else:
            start = random_.randrange(len(data))
            data[at:at] = data[start : start + random_.randrange(1, 200)]
    return data


def hostile_json(random_: random.Random) -> Any:
    """A value that does not belong where it will stand."""
    deep: Any = []
    for _ in range(random_.choice((3, 50, 900))):
        deep = [deep] if random_.random() < 0.5 else {"a": deep}
    return random_.choice((
        None, True, False, -1, 2, 1.5, 1e308, float("nan"), float("inf"), 1 << 53, 10**400, "", "F32", "Q4_0",
        "\ud800", "\x1b[2J", "../../etc/passwd", "/dev/zero", "x" * 5_000, [], {}, [[]], [-1], [1 << 63] * 2,
        [0] * 2_000, ["0", "8"], deep, *NUMBERS,
    ))  # fmt: skip


def spoil(random_: random.Random, value: Any) -> Any:
    """A copy of a JSON value with one part, somewhere inside, replaced, added or missing."""
    if isinstance(value, dict) and value and random_.random() < 0.9:
        key = random_.choice(list(value))
        change = random_.randrange(8)
        copy = dict(value)
        if change == 0:
            del copy[key]
        elif change == 1:
            copy[random_.choice(("a", "", "\ud800", "__metadata__", key + "x"))] = hostile_json(random_)
        elif change == 2:
            copy[key] = value[random_.choice(list(value))]
        else:
            copy[key] = spoil(random_, value[key])
        return copy
    if isinstance(value, list) and value and random_.random() < 0.8:
        index = random_.randrange(len(value))
        return [*value[:index], spoil(random_, value[index]), *value[index + random_.randrange(2) :]]
    return hostile_json(random_)


class GgufCases:
    """A small file of every type, cut at every length and then damaged at random."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.gguf"
        self.file = small_gguf()

    def write(self, random_: random.Random, case: int) -> Path:
        data = bytearray(self.file.data)
        if case < len(data):
            del data[case:]
        else:
            data = damage(random_, data, self.file.fields)
        self.path.write_bytes(data)
        return self.path


class DefaultModelCases:
    """The header of a real file, damaged; its weights are a hole of the right size."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.path = folder / "default.gguf"
        self.size = model.stat().st_size
        with open_source(model) as source:
            self.header = model.read_bytes()[: self.size - sum(source.info(n).nbytes for n in source.names())]
        words = range(0, len(self.header) - 8, 4)
        self.fields = [(at, 8) for at in words if self.header[at + 2 : at + 8] == bytes(6)]

    def write(self, random_: random.Random, case: int) -> Path:
        data = damage(random_, bytearray(self.header), self.fields)
        with self.path.open("wb") as file:
            file.write(data)
            file.truncate(max(len(data), self.size))
        return self.path


class SafetensorsCases:
    """A small folder whose weights, header, index and configuration are damaged in turn."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: dict[str, bytes | None] = {}
        self.weights = small_safetensors()
        self.data = self.weights[8 + int.from_bytes(self.weights[:8], "little") :]
        self.index = {"weight_map": dict.fromkeys(SMALL_TENSORS, "model.safetensors")}
        # Digits of the header are its numbers.
        self.fields = [(0, 8)] + [(i, 1) for i, byte in enumerate(self.weights[:-264]) if chr(byte).isdigit()]

    def write(self, random_: random.Random, case: int) -> Path:
        weights: bytes = self.weights
        config, index = json.dumps(CONFIG), json.dumps(self.index)
        kind = random_.randrange(8)
        if case < len(weights):
            weights = weights[:case]
        elif kind < 2:
            weights = bytes(damage(random_, bytearray(weights), self.fields))
        elif kind < 5:
            weights = safetensors_bytes(spoil(random_, safetensors_header()), self.data)
        elif kind == 5:
            index = json.dumps(spoil(random_, self.index))
        elif kind == 6:
            config = json.dumps(spoil(random_, CONFIG))
        else:
            config = damage(random_, bytearray(config, "ascii"), [(i, 1) for i in range(80)]).decode(
                "latin-1"
            )
        self._put("model.safetensors", weights)
        self._put("config.json", config.encode("latin-1"))
        self._put("model.safetensors.index.json", index.encode() if case // 100 % 2 or kind == 5 else None)
        return self.folder

    def _put(self, name: str, content: bytes | None) -> None:
        """Write or remove one file, unless it is so already."""
        if name in self.written and content == self.written[name]:
            return
        self.written[name] = content
        if content is None:
            (self.folder / name).unlink(missing_ok=True)
        else:
            (self.folder / name).write_bytes(content)


def use(path: Path) -> str:
    """Open a model and read all of it; how that ended."""
    try:
        with open_source(path) as source:
            read(source)
            config_from(source)
            if source.kind == "gguf":
                load_tokenizer(source)
    except (BadFile, Unsupported) as error:
        shown = str(error)
        end = type(error).__name__
    except TrimtabError as error:
        raise AssertionError(f"{type(error).__name__} is not what a damaged file is") from error
    else:
        return "read"
    assert end == "Unsupported" or str(path) in shown, f"which file? {shown}"
    assert len(shown) < 2_000, f"the message has {len(shown)} characters"
    assert all(line.isprintable() for line in shown.split("\n")), f"not fit for a terminal: {shown!r}"
    return end


def read(source: TensorSource) -> None:
    for name in source.names():
        info = source.info(name)
        raw = source.raw(name)
        assert len(raw) == info.nbytes
        assert int(raw.max(initial=0)) <= 255  # touches every byte
        source.release(name)
    for info in [source.info(name) for name in source.names()][:6]:
        if info.dtype in GGUF_TYPES and info.nbytes < 1 << 20:
            assert source.dequantized(info.name).shape == info.shape


def limit_memory(mapped: int) -> None:
    """Leave room for the files that are mapped and for EXTRA_BYTES of anything else."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + mapped + EXTRA_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def too_slow(signum: int, frame: object) -> None:
    raise TimeoutError(f"one case took longer than {LIMIT_S} s")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("format", choices=("gguf", "safetensors", "default"))
    parser.add_argument("seed", type=int)
    parser.add_argument("cases", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    makers: dict[str, Callable[[], Any]] = {
        "gguf": lambda: GgufCases(options.folder),
        "safetensors": lambda: SafetensorsCases(options.folder),
        "default": lambda: DefaultModelCases(options.folder, options.model),
    }
    cases = makers[options.format]()
    signal.signal(signal.SIGALRM, too_slow)
    numbers = range(options.cases) if options.only is None else [options.only]
    ends: dict[str, int] = {}
    failures: list[str] = []
    slowest = 0.0
    for number in numbers:
        path = cases.write(random.Random(f"{options.format} {options.seed} {number}"), number)
        if number == numbers[0]:
            use(path) if options.only is None else None  # everything is imported before memory is counted
            limit_memory(options.model.stat().st_size if options.model else 0)
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            end = use(path)
            ends[end] = ends.get(end, 0) + 1
        except Exception:
            failures.append(f"case {number}: {traceback.format_exc(limit=-3)}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "cases": len(numbers), "ends": ends, "failures": failures[:10], "failed": len(failures),
        "slowest_ms": round(slowest * 1e3, 1), "peak_kb": peak,
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
