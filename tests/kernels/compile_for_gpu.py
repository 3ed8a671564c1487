"""Compile every Triton kernel to machine code of an NVIDIA H100, without one. Run by test_triton.py."""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from trimtab.kernels.triton import attention, gated, linear, norm, rope

TARGET = GPUTarget("cuda", 90, 32)
PRODUCT = {"BIASED": True, "ADDED": True, "ROWS": 16, "OUTPUTS": 32, "INPUTS": 64}
HEADS = {"HEADS": 8, "KV_HEADS": 2, "HEAD_DIM": 128}


def compiled(kernel: Any, types: str, constants: dict[str, Any]) -> int:
    """Bytes of machine code; `types` are those of the arguments that are not constants."""
    given = iter(types.split())
    signature = {name: "constexpr" if name in constants else next(given) for name in kernel.arg_names}
    places = {(i,): constants[name] for i, name in enumerate(kernel.arg_names) if name in constants}
    return len(triton.compile(ASTSource(kernel, signature, places), target=TARGET).asm["cubin"])


if __name__ == "__main__":
    sizes = [
        compiled(norm._rms_norm, "*fp32 *fp32 *bf16 i32 fp32", {"BLOCK": 1024}),
        compiled(gated._combine, "*bf16 *bf16 i32", {"GELU": True, "BLOCK": 1024}),
        compiled(linear._linear_int8, "*bf16 *i8 *fp32 *fp32 *fp32 *fp32 i32 i32 i32", PRODUCT),
        compiled(
            linear._linear_groups,
            "*bf16 *u8 *fp32 *fp32 *fp32 *fp32 *fp32 i32 i32 i32",
            PRODUCT | {"GROUP": 32},
        ),
    ]
    for kv, int8 in (("*bf16", False), ("*i8", True)):
        cache = f"{kv} {kv} *fp32 *fp32 *i64 *i64"
        more = {"BLOCK": 128, "HALF": 64, "NORMED": True, "INT8": int8}
        sizes.append(
            compiled(rope._rope_store, f"*bf16 *bf16 {cache} *fp32 *fp32 *fp32 fp32 fp32", HEADS | more)
        )
        more = {"QUERIES": 16, "KEYS": 32, "WIDTH": 128, "PAGE_TOKENS": 16, "INT8": int8}
        more |= {"CAPPED": True, "WINDOWED": True}
        sizes.append(compiled(attention._attend, f"*bf16 *bf16 {cache} *i64 fp32 fp32 i32", HEADS | more))
    print(*sizes)
