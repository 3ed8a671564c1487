"""Writes the C++ of the measured kernels: `python generate.py OUTPUT`, run by the build.

Each kernel is one function around one asm statement that holds the whole loop, so no compiler can drop,
merge or reorder a step. The function carries the target attributes its registers need, so the rest of the
build stays at the baseline; run time picks by CPUID. Labels around the loop let a test read back exactly the
code that is timed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from instructions import INSTRUCTIONS, Instruction

STEPS = 96
"""Steps of a round: loop control costs 1 % at most, and every number of chains divides it."""
CHAINS = (1, 4, 8, 12)
# rdi holds the data, rcx counts; rsi holds the data as well, for loads that must not look like the store's.
GENERAL = ("rax", "rbx", "r8", "r9", "r10", "r11", "r12", "r13")
SOURCE = "rdx"


def chains_of(entry: Instruction, width: int) -> list[int]:
    most = min(entry.most, len(GENERAL)) if width == 64 else entry.most
    counts = [n for n in CHAINS if n <= most and not (entry.free and n == 1)]
    return counts if most in CHAINS or entry.free else [*counts, most]


def register(width: int, number: int) -> str:
    return ("zmm" if width == 512 else "ymm" if width == 256 else "xmm") + str(number)


def step(entry: Instruction, width: int, chain: int, chains: int, number: int) -> str:
    """The text of one step; successive ones use successive data."""
    size = 4 if entry.name.endswith(("broadcast", "broadcast_32")) else max(8, width // 8)
    near = number * size % 2048  # one behind the other: a bank of the cache serves one load a cycle
    if width == 64:
        names = {"d": GENERAL[chain], "a": SOURCE}
    else:
        names = {"d": register(width, chain), "a": register(width, 13), "b": register(width, 14),
                 "one": register(width, 15), "t": register(width, chain + chains),
                 "u": register(width, chain + 2 * chains), "h": register(width // 2, chain),
                 "q": register(128, chain)}  # fmt: skip
    names |= {"s": f"rdi + {4096 + near}", "o": str(4096 + near)}
    return re.sub(r"<(\w+)>", lambda match: names[match[1]], entry.steps[width])


def lines_of(entry: Instruction, width: int, chains: int, label: str) -> Iterator[str]:
    """The asm statement: load the registers, run the loop, leave the upper halves clean."""
    yield ".intel_syntax noprefix"
    if width == 64:
        yield "mov rsi, rdi"
        for number, name in enumerate((*GENERAL, SOURCE)):
            yield f"mov {name}, [rdi + {64 * number}]"
    else:
        move = "vmovdqu64" if width == 512 else "vmovdqu"
        yield "mov rsi, rdi"
        for number in range(16):
            yield f"{move} {register(max(width, 128), number)}, [rdi + {64 * number}]"
    yield f".p2align 6\n.hidden {label}_begin\n.globl {label}_begin\n{label}_begin:"
    for number in range(STEPS):
        yield step(entry, width, number % chains, chains, number)
    yield f"dec rcx\njnz {label}_begin\n.hidden {label}_end\n.globl {label}_end\n{label}_end:"
    if width != 64:
        yield "vzeroupper"
    yield ".att_syntax prefix"


def clobbers(width: int) -> str:
    names = ["cc", "memory", "rsi"]
    if width == 64:
        names += [*GENERAL, SOURCE]
    else:
        names += [f"xmm{i}" for i in range(16)] + (["k1"] if width == 512 else [])
    return ", ".join(f'"{name}"' for name in names)


def escaped(text: str) -> str:
    """Braces mean alternatives in asm templates with operands; these are meant literally."""
    return text.replace("{", "%{").replace("}", "%}").replace("\n", "\\n\\t")


def function(entry: Instruction, width: int, chains: int) -> Iterator[str]:
    name = f"{entry.name}_{width}_{chains}"
    features = ",".join(entry.features[width])
    target = f'target("{features}"), ' if features else ""
    hidden = 'extern "C" __attribute__((visibility("hidden"))) const unsigned char'
    yield f"{hidden} micro_{name}_begin[], micro_{name}_end[];"
    yield f"__attribute__(({target}noinline)) void run_{name}(uint64_t rounds, void* data) {{"
    yield "  asm volatile("
    yield from (f'      "{escaped(line)}\\n\\t"' for line in lines_of(entry, width, chains, f"micro_{name}"))
    yield f'      : "+c"(rounds), "+D"(data) : : {clobbers(width)});'
    yield "}"


def entry_of(entry: Instruction, width: int, chains: int) -> str:
    lanes = 1 if entry.moves else max(1, width // entry.lane_bits)
    name = f"{entry.name}_{width}_{chains}"
    ops = 0.0 if entry.moves else lanes * entry.lane_ops
    moved = (4 if entry.name.startswith("broadcast") else width // 8) if entry.moves else 0
    text = step(entry, width, 0, chains, 0).replace("\n", "; ")
    flags = ", ".join("true" if flag else "false" for flag in (entry.free, entry.pair))
    return (
        f'    {{"{entry.name}", "{entry.suite}", {width}, {chains}, {STEPS}, {ops}, {moved}, '
        f'Fill::{entry.data}, {flags}, "{" ".join(entry.features[width])}", "{text}", run_{name}, '
        f"micro_{name}_begin, micro_{name}_end}},"
    )


def source() -> Iterator[str]:
    yield "// Generated by native/micro/generate.py from native/micro/instructions.py."
    yield '#include "micro/kernels.h"\n'
    yield "#if defined(__x86_64__) && defined(__ELF__)"
    yield "namespace trimtab::micro {\nnamespace {\n"
    kinds = [(e, w, n) for e in INSTRUCTIONS for w in e.steps for n in chains_of(e, w)]
    for kind in kinds:
        yield from function(*kind)
        yield ""
    yield "const Kernel kTable[] = {"
    yield from (entry_of(*kind) for kind in kinds)
    yield "};\n\n}  // namespace\n"
    yield "std::span<const Kernel> generated() { return kTable; }\n\n}  // namespace trimtab::micro"
    yield "#else\nnamespace trimtab::micro {\nstd::span<const Kernel> generated() { return {}; }\n}\n#endif"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(source()) + "\n", encoding="ascii")
