"""The table of instructions whose cost is measured; `generate.py` turns each entry into kernels.

An entry is one instruction, or the short sequence that does one step of work, at some widths. In a step,
`<d>` is the register of a chain, `<a>`, `<b>` and `<one>` are sources that no step writes, `<t>` and `<u>`
are of the chain and for its own use, `<h>` is the lower half of `<d>`, `<q>` its lowest 128 bits, and `<s>`
an address in 4 KiB of data that lie in the first-level cache. A step reads its `<d>` and writes it, unless
`free` says that it only writes: then there is no chain, and the entry has no latency.
"""

from __future__ import annotations

from dataclasses import dataclass

AVX2, FMA, F16C = ("avx2",), ("avx2", "fma"), ("avx2", "f16c")
AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
"""What every 512-bit processor with byte instructions has."""
VNNI, BF16 = (*AVX512, "avx512vnni"), (*AVX512, "avx512bf16")
VBMI, POPCNT = (*AVX512, "avx512vbmi"), (*AVX512, "avx512vpopcntdq")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One row of the table.

    Parameters
    ----------
    name : in results, beside the width
    steps : assembler text of a step by width in bits; a width of 64 means general registers
    features : what a processor needs, by width
    lane_bits : of one element of the result
    lane_ops : arithmetic operations an element; a multiply-add is two
    data : what registers and memory hold: f32, f64, bf16, f16, int8, int32, index (small numbers), self (own
        addresses)
    free : steps do not depend on each other
    moves : bytes count instead of operations
    pair : a step is there and back, so its latency is that of two instructions
    most : chains at the most, where steps need further registers
    suite : `units`, or `sync` for what belongs to memory order
    """

    name: str
    steps: dict[int, str]
    features: dict[int, tuple[str, ...]]
    lane_bits: int
    lane_ops: float = 1.0
    data: str = "int32"
    free: bool = False
    moves: bool = False
    pair: bool = False
    most: int = 12
    suite: str = "units"


def both(
    name: str, step: str, ymm: tuple[str, ...], zmm: tuple[str, ...] = AVX512, lane_bits: int = 32,
    lane_ops: float = 1.0, data: str = "int32", **rest: bool | int,
) -> Instruction:  # fmt: skip
    """The same text with 256 and with 512 bits."""
    return Instruction(name, {256: step, 512: step}, {256: ymm, 512: zmm}, lane_bits, lane_ops, data, **rest)


def scalar(name: str, step: str, *features: str, **rest: object) -> Instruction:
    return Instruction(name, {64: step}, {64: features}, 64, **rest)  # type: ignore[arg-type]


_MOVE = {64: "mov", 128: "vmovdqa", 256: "vmovdqa", 512: "vmovdqa64"}
_LOADS = {width: f"{move} <d>, [<s>]" for width, move in _MOVE.items()}
_STORES = {width: f"{move} [<s>], <d>" for width, move in _MOVE.items()}
_MOVES = {64: (), 128: AVX2, 256: AVX2, 512: AVX512}
# The load names another register than the store: with the same one, some processors rename memory and skip
# the cache.
_FORWARDS = {width: f"{move} [rdi + <o>], <d>\n{move} <d>, [rsi + <o>]" for width, move in _MOVE.items()}
_RENAMED = "mov [rdi + <o>], <d>\nmov <d>, [rdi + <o>]"
_GATHERS = {
    256: "vpcmpeqd <t>, <t>, <t>\nvpgatherdd <u>, [rdi + 2048 + <d>*4], <t>\nvmovdqa <d>, <u>",
    512: "kxnorw k1, k1, k1\nvpgatherdd <u>{k1}, [rdi + 2048 + <d>*4]\nvmovdqa64 <d>, <u>",
}
_MADDUBS = "vpmaddubsw <t>, <a>, <b>\nvpmaddwd <t>, <t>, <one>\nvpaddd <d>, <d>, <t>"
_HALVES = "vcvtph2ps <d>, <h>\nvcvtps2ph <h>, <d>, 0"

INSTRUCTIONS = (
    # Scalar integers. The first is the clock: a chain of additions takes one cycle each on every processor.
    scalar("add_i64", "add <d>, <a>"),
    scalar("mul_i64", "imul <d>, <a>"),
    scalar("popcnt_i64", "popcnt <d>, <d>", "popcnt"),
    # Floats. A multiply-add whose factor is below one keeps its sum bounded and normal.
    Instruction("fma_f32", {32: "vfmadd132ss <d>, <b>, <a>"}, {32: FMA}, 32, 2, "f32"),
    both("fma_f32", "vfmadd132ps <d>, <b>, <a>", FMA, lane_ops=2, data="f32"),
    both("fma_f64", "vfmadd132pd <d>, <b>, <a>", FMA, lane_bits=64, lane_ops=2, data="f64"),
    both("add_f32", "vaddps <d>, <d>, <b>", AVX2, data="f32"),
    both("mul_f32", "vmulps <d>, <d>, <one>", AVX2, data="f32"),
    both("div_f32", "vdivps <d>, <d>, <one>", AVX2, data="f32"),
    both("dpbf16", "vdpbf16ps <d>, <a>, <b>", BF16, BF16, lane_ops=4, data="bf16"),
    # 8-bit integers: four products into each 32-bit sum, in one instruction or in three.
    both("dpbusd", "vpdpbusd <d>, <a>, <b>", VNNI, VNNI, lane_ops=8, data="int8"),
    Instruction(
        "dpbusd_broadcast",
        {256: "vpdpbusd <d>, <a>, dword ptr [<s>]{1to8}", 512: "vpdpbusd <d>, <a>, dword ptr [<s>]{1to16}"},
        {256: VNNI, 512: VNNI}, 32, 8, "int8",
    ),
    Instruction(
        "dp8_maddubs", {256: _MADDUBS}, {256: AVX2}, 32, 8, "int8", free=True, most=6,
    ),
    both("maddubs", "vpmaddubsw <d>, <d>, <b>", AVX2, lane_bits=16, lane_ops=3, data="int8"),
    both("maddwd", "vpmaddwd <d>, <d>, <b>", AVX2, lane_ops=3, data="int8"),
    # Bytes and words moved inside a register.
    both("shuffle_8", "vpshufb <d>, <d>, <a>", AVX2, lane_bits=8, data="int8"),
    both("permute_8", "vpermb <d>, <a>, <d>", VBMI, VBMI, lane_bits=8, data="int8"),
    both("permute_32", "vpermps <d>, <a>, <d>", AVX2, data="int8"),
    # Conversions. Halves are half as wide, so a chain goes there and back.
    Instruction(
        "f16_f32_f16", {256: _HALVES, 512: _HALVES}, {256: F16C, 512: AVX512}, 32, 2, "f16", pair=True
    ),
    Instruction(
        "f16_to_f32", {256: "vcvtph2ps <d>, xmm13", 512: "vcvtph2ps <d>, ymm13"}, {256: F16C, 512: AVX512},
        32, data="f16", free=True,
    ),
    both("i32_to_f32", "vcvtdq2ps <d>, <d>", AVX2),
    # Twelve chains of this share their pipes evenly in some runs and not in others, so throughput has none.
    both("f32_to_bf16", "vcvtneps2bf16 <h>, <d>", BF16, BF16, data="f32", most=1),
    Instruction(
        "f32_to_bf16", {256: "vcvtneps2bf16 <h>, ymm13", 512: "vcvtneps2bf16 <h>, zmm13"},
        {256: BF16, 512: BF16}, 32, data="f32", free=True,
    ),
    both("u8_to_i32", "vpmovzxbd <d>, <q>", AVX2, data="int8"),
    # Integers in vectors.
    both("add_i32", "vpaddd <d>, <d>, <a>", AVX2),
    both("mul_i32", "vpmulld <d>, <d>, <a>", AVX2),
    both("popcnt_i32", "vpopcntd <d>, <d>", POPCNT, POPCNT),
    # What one gather fetched are the indices of the next. The mask is spent by each.
    Instruction("gather_32", _GATHERS, {256: AVX2, 512: AVX512}, 32, data="index", most=4),
    # Loads and stores that hit the first level; the chase is the latency of a load.
    scalar("chase_64", "mov <d>, [<d>]", data="self", moves=True, most=8),
    Instruction("load", _LOADS, _MOVES, 64, data="int8", free=True, moves=True),
    Instruction("store", _STORES, _MOVES, 64, data="int8", free=True, moves=True),
    both("broadcast_32", "vpbroadcastd <d>, dword ptr [<s>]", AVX2, data="int8", free=True, moves=True),
    # What a load costs that meets a store still on its way to the cache.
    Instruction("forward", _FORWARDS, _MOVES, 64, data="int8", moves=True, pair=True, most=1, suite="sync"),
    scalar("forward_renamed", _RENAMED, moves=True, pair=True, most=1, suite="sync"),
)  # fmt: skip
