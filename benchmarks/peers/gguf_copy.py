"""Copies of a GGUF file with other numbers in its matrices; everything else stays as it is, byte for byte.

`off_grid` makes an honest 16-bit model out of a quantised one: the same function, but with its channels in
another order, so that no group of 32 weights coincides with a group of the file's own quantisation. Without
that, rounding to the file's own type would lose nothing and prove nothing.

`rounded` makes a file whose weights have only 2 to 16 levels in each group of 32, by plain rounding or by the
search that k-quants use. It is stored as Q4_1, which holds up to 16 levels: what such weights cost in quality
is real, what fewer bits would save in size is not, and nothing here says so.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.formats.source import open_source
from trimtab.models.config import config_from

Floats = npt.NDArray[np.float32]
SEED = 20_260_101
F32, F16, Q4_1 = 0, 1, 3
GROUP = 32
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY = 8, 9
_ALIGNMENT = 32
# Ranges that the search tries, as multiples of the plain step.
_TRIALS = (0.80, 0.86, 0.91, 0.95, 0.98, 1.0, 1.04)


def off_grid(model: Path, target: Path) -> Path:
    """The model in 16 bits with its channels shuffled; computes the same (llama architecture only)."""
    with closing(open_source(model)) as source:
        config = config_from(source)
    if config.architecture != "llama":
        raise ValueError(f"channels of `{config.architecture}` cannot be shuffled here")
    draw = np.random.default_rng(SEED)
    hidden = draw.permutation(config.hidden)
    inner = [draw.permutation(config.mlp) for _ in range(config.layers)]
    size, share = config.head_dim, config.heads // config.kv_heads
    values = [[draw.permutation(size) for _ in range(config.kv_heads)] for _ in range(config.layers)]

    def convert(name: str, x: Floats) -> bytes:
        parts = name.split(".")
        if x.ndim == 1:
            return x[hidden].tobytes()
        layer = int(parts[1]) if parts[0] == "blk" else 0
        kind = parts[2] if parts[0] == "blk" else parts[0]
        heads = [values[layer][j] + j * size for j in range(config.kv_heads)]
        asked = [values[layer][j // share] + j * size for j in range(config.heads)]
        rows, columns = {
            "attn_v": (np.concatenate(heads), hidden),
            "attn_output": (hidden, np.concatenate(asked)),
            "ffn_gate": (inner[layer], hidden),
            "ffn_up": (inner[layer], hidden),
            "ffn_down": (hidden, inner[layer]),
        }.get(kind, (np.arange(len(x)), hidden))
        return x[rows][:, columns].astype(np.float16).tobytes()

    return rewrite(model, target, F16, convert)


def rounded(model: Path, target: Path, bits: int, *, search: bool) -> Path:
    """The model with `2**bits` levels in each group, in a file of type Q4_1."""

    def convert(name: str, x: Floats) -> bytes:
        if x.ndim == 1:
            return x.tobytes()
        return blocks(x.reshape(-1, GROUP), 2**bits, search=search)

    return rewrite(model, target, Q4_1, convert)


def blocks(groups: Floats, levels: int, *, search: bool) -> bytes:
    """Q4_1 blocks of groups (n, 32): scale and minimum as fp16, then 32 levels of four bits."""
    parts = []
    for at in range(0, len(groups), 1 << 16):
        part = groups[at : at + (1 << 16)]
        scale, low = _plain(part, levels)
        if search:
            scale, low = _searched(part, levels, scale, low)
        scale, low = scale.astype(np.float16), low.astype(np.float16)
        q = _levels(part, scale.astype(np.float32), low.astype(np.float32), levels)
        packed = q[:, :16] | q[:, 16:] << 4
        block = np.empty((len(part), 20), np.uint8)
        block[:, 0:2], block[:, 2:4] = scale.view(np.uint8).reshape(-1, 2), low.view(np.uint8).reshape(-1, 2)
        block[:, 4:] = packed
        parts.append(block.tobytes())
    return b"".join(parts)


def _plain(x: Floats, levels: int) -> tuple[Floats, Floats]:
    low = x.min(axis=1)
    return (x.max(axis=1) - low) / (levels - 1), low


def _levels(x: Floats, scale: Floats, low: Floats, levels: int) -> npt.NDArray[np.uint8]:
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    return np.clip(np.rint((x - low[:, None]) * inverse[:, None]), 0, levels - 1).astype(np.uint8)


def _searched(x: Floats, levels: int, scale: Floats, low: Floats) -> tuple[Floats, Floats]:
    """Scale and minimum of least weighted error over several ranges, each refined by least squares.

    As llama.cpp's k-quants do it, large weights count more: a weight's weight is its size plus the group's
    root mean square.
    """
    weight = np.abs(x) + np.sqrt((x * x).mean(axis=1, keepdims=True))
    best, chosen = np.full(len(x), np.inf, np.float32), (scale, low)
    middle = low + scale * (levels - 1) / 2
    for factor in _TRIALS:
        step = scale * factor
        start = middle - step * (levels - 1) / 2
        for _ in range(2):  # levels for the range, then the best range for the levels
            q = _levels(x, step, start, levels).astype(np.float32)
            error = (weight * (x - start[:, None] - q * step[:, None]) ** 2).sum(axis=1)
            better = error < best
            best = np.where(better, error, best)
            chosen = (np.where(better, step, chosen[0]), np.where(better, start, chosen[1]))
            total, one, two = weight.sum(axis=1), (weight * q).sum(axis=1), (weight * q * q).sum(axis=1)
            sums, both = (weight * x).sum(axis=1), (weight * q * x).sum(axis=1)
            spread = total * two - one * one
            usable = spread > 1e-6 * total * two
            step = np.where(usable, (total * both - one * sums) / np.where(usable, spread, 1), step)
            start = np.where(usable, (sums - step * one) / total, start)
    return chosen


def rewrite(model: Path, target: Path, kind: int, convert: Callable[[str, Floats], bytes]) -> Path:
    """Copy a GGUF file, its metadata as it is, vectors as F32 and matrices of type `kind`; in one piece."""
    part = target.with_suffix(".part")
    with closing(open_source(model)) as source:
        names = source.names()
        head = _head(model)
        infos, offset = [], 0
        with part.open("wb") as file:
            file.write(head)
            for name in names:
                shape = source.info(name).shape
                weights = int(np.prod(shape))
                size = (
                    4 * weights if len(shape) == 1 else 2 * weights if kind == F16 else weights // GROUP * 20
                )
                infos.append((name, shape, offset))
                offset += -(-size // _ALIGNMENT) * _ALIGNMENT
            for name, shape, at in infos:
                text = name.encode()
                file.write(struct.pack("<Q", len(text)) + text + struct.pack("<I", len(shape)))
                file.write(
                    struct.pack(f"<{len(shape)}Q", *reversed(shape))
                    + struct.pack("<IQ", F32 if len(shape) == 1 else kind, at)
                )
            file.write(bytes(-file.tell() % _ALIGNMENT))
            for name, _, _ in infos:
                data = convert(name, source.dequantized(name))
                file.write(data + bytes(-len(data) % _ALIGNMENT))
                source.release(name)
    os.replace(part, target)
    return target


def _head(model: Path) -> bytes:
    """Everything before the tensors' descriptions."""
    data = model.read_bytes()[: 64 << 20]
    (keys,) = struct.unpack_from("<Q", data, 16)
    at = 24
    for _ in range(keys):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
        at = _past(data, at + 4, struct.unpack_from("<I", data, at)[0])
    return data[:at]


def _past(data: bytes, at: int, kind: int) -> int:
    """Where a metadata value ends."""
    if kind == _TEXT:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    if kind == _ARRAY:
        inner, count = struct.unpack_from("<IQ", data, at)
        at += 12
        if inner in _SCALARS:
            return at + _SCALARS[inner] * int(count)
        for _ in range(count):
            at = _past(data, at, inner)
        return at
    return at + _SCALARS[kind]


def made(folder: Path, name: str, make: Callable[[Path], Any]) -> Path:
    """A file of a folder, made when it is not there yet."""
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        make(path)
    return path
