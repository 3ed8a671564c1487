"""What a picture's first bytes say: format, size, orientation. Nothing is decoded here.

A file of a few bytes can claim a picture of gigapixels; so its size is read and refused before any decoder
runs, and the only formats tried are those named here.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from trimtab.errors import TrimtabError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MOST_SIDE = 65_500
_ORIENTATION = 0x0112


class BadImage(TrimtabError):
    """Bytes that are no picture of a known format, or a damaged one."""

    exit_code = 3
    http_status = 400


class TooLarge(TrimtabError):
    """A picture with more pixels than this pipeline takes."""

    exit_code = 4
    http_status = 413


@dataclass(frozen=True, slots=True)
class Header:
    """Of one picture.

    Parameters
    ----------
    width, height : as stored, in pixels
    orientation : EXIF's 1 to 8; 1 is as stored
    """

    format: str
    width: int
    height: int
    orientation: int = 1

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as a person sees it."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read(body: bytes, most_megapixels: float) -> Header:
    """Read a picture's header.

    Raises
    ------
    BadImage : it is none of the known formats
    TooLarge : it has more pixels than `most_megapixels`
    """
    from PIL import Image

    if not body:
        raise BadImage("the picture is empty", f"send the bytes of a {', '.join(FORMATS)} file", "image")
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as found:
            width, height = found.size
            header = Header(str(found.format), width, height, _orientation(found))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"the picture is too large: {error}", _smaller(most_megapixels), "image") from error
    # A decoder of untrusted bytes fails in many ways, each of them the sender's.
    except Exception as error:
        raise BadImage(
            "the bytes are no picture that can be read", f"send a {', '.join(FORMATS)} file", "image"
        ) from error
    if width < 1 or height < 1 or max(width, height) > MOST_SIDE or header.megapixels > most_megapixels:
        raise TooLarge(
            f"the picture says it has {width} x {height} pixels, which is {header.megapixels:.4g} megapixels",
            _smaller(most_megapixels), "image",
        )  # fmt: skip
    return header


def _orientation(found: object) -> int:
    try:
        value = found.getexif().get(_ORIENTATION, 1)  # type: ignore[attr-defined]
    except Exception:  # a broken note beside a good picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _smaller(most_megapixels: float) -> str:
    return f"this pipeline takes up to {most_megapixels:g} megapixels; send a smaller one"
