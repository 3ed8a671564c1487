"""The tensor types of GGUF files: their names, numbers and block sizes. Nothing here reads a file."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.errors import Unsupported


@dataclass(frozen=True, slots=True)
class BlockType:
    """One tensor type.

    Parameters
    ----------
    name, number : the file format's own
    weights : weights of one block; a row is whole blocks
    nbytes : bytes of one block
    """

    name: str
    number: int
    weights: int
    nbytes: int

    def size(self, weights: int) -> int:
        """Bytes of `weights` weights, which must fill whole blocks."""
        return weights // self.weights * self.nbytes


GGUF_TYPES: dict[str, BlockType] = {
    kind.name: kind
    for kind in (
        BlockType("F32", 0, 1, 4),
        BlockType("F16", 1, 1, 2),
        BlockType("Q4_0", 2, 32, 18),
        BlockType("Q4_1", 3, 32, 20),
        BlockType("Q5_0", 6, 32, 22),
        BlockType("Q5_1", 7, 32, 24),
        BlockType("Q8_0", 8, 32, 34),
        BlockType("Q2_K", 10, 256, 84),
        BlockType("Q3_K", 11, 256, 110),
        BlockType("Q4_K", 12, 256, 144),
        BlockType("Q5_K", 13, 256, 176),
        BlockType("Q6_K", 14, 256, 210),
        BlockType("IQ4_NL", 20, 32, 18),
        BlockType("BF16", 30, 1, 2),
    )
}
BY_NUMBER = {kind.number: kind for kind in GGUF_TYPES.values()}

# Types that exist but that trimtab does not read; the names make the refusal readable.
OTHER_TYPES = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


def block_type(name: str) -> BlockType:
    """The block type behind a tensor's dtype name; Unsupported for types weights cannot have."""
    if name not in GGUF_TYPES:
        raise Unsupported(
            f"tensors of type {name} cannot be used as weights", f"known: {', '.join(GGUF_TYPES)}"
        )
    return GGUF_TYPES[name]


def type_number(name: str) -> int:
    """The number that native code knows a tensor type by."""
    return block_type(name).number
