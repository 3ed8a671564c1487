"""Copies of a GGUF file with other numbers in its matrices; everything else stays as it is, byte for byte.

`off_grid` makes an honest 16-bit model out of a quantised one: the same function, but with its channels in
another order, so that no group of 32 weights coincides with a group of the file's own quantisation. Without
that, rounding to the file's own type would lose nothing and prove nothing.

`mixed` makes a k-quant-like file: 4 bits for most weights, 8 for an eighth of them, 5.0 bits in the mean.

`rounded` makes a file whose weights have only 2 to 16 levels in each group of 32. It is stored as Q4_1, which
holds up to 16 levels: what such weights cost in quality is real, what fewer bits would save in size is not,
and nothing here says so.
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
GROUP = 32
F32, F16, Q4_0, Q4_1, Q8_0 = 0, 1, 2, 3, 8
BLOCK_BYTES = {F16: 64, Q4_0: 18, Q4_1: 20, Q8_0: 34}  # of 32 weights
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY = 8, 9
_ALIGNMENT = 32


def made(folder: Path, name: str, make: Callable[[Path], Any]) -> Path:
    """A file of a folder, made when it is not there yet."""
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        make(path)
    return path


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
        # What a value head writes, all query heads that share it read.
        written = [values[layer][j] + j * size for j in range(config.kv_heads)]
        read = [values[layer][j // share] + j * size for j in range(config.heads)]
        rows, columns = {
            "attn_v": (np.concatenate(written), hidden),
            "attn_output": (hidden, np.concatenate(read)),
            "ffn_gate": (inner[layer], hidden),
            "ffn_up": (inner[layer], hidden),
            "ffn_down": (hidden, inner[layer]),
        }.get(kind, (np.arange(len(x)), hidden))
        return x[rows][:, columns].astype(np.float16).tobytes()

    return rewrite(model, target, lambda name: F16, convert)


def mixed(model: Path, target: Path) -> Path:
    """Q4_0, but Q8_0 for what attention puts out and for some of what the MLP does: 5.0 bits in the mean.

    As in k-quants, matrices that write into the residual stream get the bits, the MLP's in the first and the
    last layers. Each stands alone in its matrix, so the engine's bytes grow as the file's do.
    """
    with closing(open_source(model)) as source:
        config = config_from(source)
    across = config.hidden * config.head_dim
    a_layer = 2 * across * (config.heads + config.kv_heads) + 3 * config.hidden * config.mlp
    weights = config.layers * a_layer + config.vocab_size * config.hidden
    left = weights / 8 - config.layers * across * config.heads  # 4.5 bits and 8.5 for an eighth: 5.0
    number = max(0, int(left / (config.hidden * config.mlp)))
    forth = range(config.layers)
    ends = [layer for pair in zip(forth, reversed(forth), strict=True) for layer in pair]
    wide = {f"blk.{layer}.ffn_down.weight" for layer in ends[:number]}

    def kind(name: str) -> int:
        return Q8_0 if name in wide or ".attn_output." in name else Q4_0

    def convert(name: str, x: Floats) -> bytes:
        return x.tobytes() if x.ndim == 1 else _symmetric(x.reshape(-1, GROUP), kind(name))

    return rewrite(model, target, kind, convert)


def rounded(model: Path, target: Path, bits: int) -> Path:
    """The model with `2**bits` levels in each group, rounded to nearest, in a file of type Q4_1."""

    def convert(name: str, x: Floats) -> bytes:
        return x.tobytes() if x.ndim == 1 else _affine(x.reshape(-1, GROUP), 2**bits)

    return rewrite(model, target, lambda name: Q4_1, convert)


def rewrite(
    model: Path, target: Path, kind: Callable[[str], int], convert: Callable[[str, Floats], bytes]
) -> Path:
    """Copy a GGUF file, its metadata as it is, vectors as F32, matrices of the type `kind`; in one piece."""
    part = target.with_suffix(".part")
    with closing(open_source(model)) as source, part.open("wb") as file:
        names, offset = source.names(), 0
        file.write(_head(model))
        for name in names:
            shape = source.info(name).shape
            weights, text = int(np.prod(shape)), name.encode()
            file.write(struct.pack("<Q", len(text)) + text + struct.pack("<I", len(shape)))
            file.write(struct.pack(f"<{len(shape)}Q", *reversed(shape)))
            file.write(struct.pack("<IQ", F32 if len(shape) == 1 else kind(name), offset))
            size = 4 * weights if len(shape) == 1 else weights // GROUP * BLOCK_BYTES[kind(name)]
            offset += -(-size // _ALIGNMENT) * _ALIGNMENT
        file.write(bytes(-file.tell() % _ALIGNMENT))
        for name in names:
            data = convert(name, source.dequantized(name))
            file.write(data + bytes(-len(data) % _ALIGNMENT))
            source.release(name)
    os.replace(part, target)
    return target


def _affine(x: Floats, levels: int) -> bytes:
    """Q4_1 blocks: scale and minimum as fp16, then 32 levels of four bits."""
    low = x.min(axis=1)
    scale = ((x.max(axis=1) - low) / (levels - 1)).astype(np.float16)
    low = low.astype(np.float16)
    q = np.rint((x - low.astype(np.float32)[:, None]) * _inverse(scale)[:, None])
    q = np.clip(q, 0, levels - 1).astype(np.uint8)
    return _joined(scale, low, q[:, :16] | q[:, 16:] << 4)


def _symmetric(x: Floats, kind: int) -> bytes:
    """Q4_0 or Q8_0 blocks, as llama.cpp rounds them: the largest weight takes the last level exactly."""
    if kind == Q8_0:
        scale = (np.abs(x).max(axis=1) / 127).astype(np.float16)
        q = np.clip(np.rint(x * _inverse(scale)[:, None]), -127, 127)
        return _joined(scale, q.astype(np.int8))
    edge = x[np.arange(len(x)), np.abs(x).argmax(axis=1)]
    scale = (edge / -8).astype(np.float16)
    q = np.clip(np.rint(x * _inverse(scale)[:, None]) + 8, 0, 15).astype(np.uint8)
    return _joined(scale, q[:, :16] | q[:, 16:] << 4)


def _inverse(scale: npt.NDArray[np.float16]) -> Floats:
    wide = scale.astype(np.float32)
    return np.divide(1, wide, out=np.zeros_like(wide), where=wide != 0)


def _joined(*parts: npt.NDArray[Any]) -> bytes:
    """Columns of blocks side by side."""
    return np.hstack([np.ascontiguousarray(p).view(np.uint8).reshape(len(p), -1) for p in parts]).tobytes()


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
