"""The two ways in which vocabularies write bytes as text, and back."""

from __future__ import annotations


def _alphabet() -> dict[str, int]:
    """Byte-level BPE's alphabet: printable Latin-1 stands for itself, the rest is moved up behind U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(moved)}


ALPHABET = _alphabet()
SPACE_MARK = "▁"  # how sentencepiece writes a space


def byte_level(text: str) -> bytes:
    """Bytes of a byte-level token; a token with other characters stands for its own text."""
    try:
        return bytes([ALPHABET[character] for character in text])
    except KeyError:
        return text.encode("utf-8")


def sentencepiece(text: str) -> bytes:
    """Bytes of a sentencepiece token: `<0x0A>` is one byte, the mark is a space."""
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return bytes.fromhex(text[3:5])
        except ValueError:
            pass
    return text.replace(SPACE_MARK, " ").encode("utf-8")
