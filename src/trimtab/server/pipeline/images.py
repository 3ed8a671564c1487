"""Pictures to measure with: pages of rendered text whose content is known, and photographs at any size.

Everything is drawn from a seed and nothing is kept on disk. The photographs are the two that scikit-learn
carries; the font is Pillow's own. A mix says which pictures there are and how often each comes.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimtab.errors import BadFile, UsageError

_WORDS = """
invoice total amount order number date customer street city phone account balance paid north river market
silver garden window morning coffee bread paper table engine signal report quarter weekly delivery stock
article price tax discount station platform ticket travel summer winter yellow orange purple square
circle
""".split()  # noqa: SIM905 - quoted one by one they would be harder to read
_LONGEST_BYTES = 1 << 20
INK, PAPER = (25, 25, 30), (250, 249, 245)


class Page(BaseModel):
    """A page of text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lines: int = Field(8, ge=0, le=200)
    width: int = Field(640, ge=64, le=16_000, description="of the page, in pixels, before scaling")
    height: int = Field(0, ge=0, le=16_000, description="at least, before scaling; lines may need more")
    words: int = Field(2, ge=1, le=12, description="of a line, at most")
    font: int = Field(24, ge=8, le=200, description="size, in pixels, before scaling")
    scale: float = Field(1.0, gt=0, le=16, description="of everything; 4 makes a camera's picture of a page")
    quality: int = Field(90, ge=30, le=100, description="of the JPEG")
    upside_down: bool = False


class Photo(BaseModel):
    """A photograph without text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(ge=8, le=16_000)
    height: int = Field(ge=8, le=16_000)
    kilobytes: float = Field(0, ge=0, description="size to come near by the JPEG's quality; 0: quality 90")


class Entry(BaseModel):
    """One kind of picture in a mix; exactly one of page, photo and file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    page: Page | None = None
    photo: Photo | None = None
    file: Path | None = None
    count: int = Field(1, ge=1, le=1000, description="different ones of this kind")
    weight: float = Field(1.0, gt=0, description="how often this kind comes, against the others")


class Mix(BaseModel):
    """Which pictures come, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    pictures: tuple[Entry, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, ready to be sent.

    Parameters
    ----------
    lines : its text, line by line, where that is known
    weight : how often it comes, against the others
    """

    name: str
    body: bytes
    width: int
    height: int
    lines: tuple[str, ...] | None = None
    weight: float = 1.0

    @property
    def characters(self) -> int:
        return sum(map(len, self.lines or ()))


def load_mix(path: Path) -> Mix:
    """Read a mix.

    Raises
    ------
    UsageError : it cannot be read
    BadFile : it is no mix
    """
    try:
        if path.stat().st_size > _LONGEST_BYTES:
            raise BadFile(path, "too large for a mix")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", param="images") from error
    except (ValueError, RecursionError) as error:
        raise BadFile(path, f"not JSON: {error}") from error
    try:
        return Mix.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadFile(path, f"{place}: {first['msg']}") from error


def pictures_of(mix: Mix, beside: Path = Path()) -> list[Picture]:
    """Every picture of a mix.

    Parameters
    ----------
    beside : where files with relative names are
    """
    found: list[Picture] = []
    for number, entry in enumerate(mix.pictures):
        weight = entry.weight / entry.count
        if (entry.page, entry.photo, entry.file).count(None) != 2:
            raise UsageError(f"picture {number} of the mix must have one of `page`, `photo` and `file`")
        for copy in range(entry.count if entry.file is None else 1):
            source = random.Random(f"{mix.seed} {number} {copy}")
            if entry.page is not None:
                found.append(page(entry.page, source, weight))
            elif entry.photo is not None:
                found.append(photo(entry.photo, source, weight))
            elif entry.file is not None:
                found.append(_file(beside / entry.file, entry.weight))
    return found


def drawn(pictures: Sequence[Picture], count: int, seed: int) -> list[int]:
    """Which picture comes when: `count` indices by weight."""
    weights = [each.weight for each in pictures]
    return random.Random(f"{seed} order").choices(range(len(pictures)), weights, k=count)


def page(what: Page, source: random.Random, weight: float = 1.0) -> Picture:
    """Render a page; its lines stand apart far enough to be found one by one."""
    from PIL import Image, ImageDraw, ImageFont

    size = max(1, round(what.font * what.scale))
    # Pillow's own font since 10.1; before, it has no size.
    font: Any = ImageFont.load_default(size)
    step, margin = round(size * 1.9), round(size * 1.2)
    width = round(what.width * what.scale)
    height = max(round(what.height * what.scale), 2 * margin + step * max(1, what.lines))
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    lines: list[str] = []
    for number in range(what.lines):
        text = " ".join(_word(source) for _ in range(source.randint(1, what.words)))
        while len(text) > 1 and draw.textlength(text, font=font) > width - 2 * margin:
            text = text[:-1].rstrip()
        draw.text((margin, margin + number * step), text, fill=INK, font=font)
        lines.append(text)
    if what.upside_down:
        image = image.rotate(180)
    body = _encoded(image, what.quality)
    name = f"page {width}x{height}, {what.lines} lines"
    return Picture(name, body, width, height, tuple(lines), weight)


def photo(what: Photo, source: random.Random, weight: float = 1.0) -> Picture:
    """One of the two photographs, at the size and near the number of bytes asked for.

    Raises
    ------
    UsageError : scikit-learn is not installed
    """
    from PIL import Image

    package = find_spec("sklearn")  # only looked up: importing it would take seconds
    if package is None or not package.submodule_search_locations:
        raise UsageError(
            "photographs are taken from scikit-learn, which is not here",
            "`pip install scikit-learn`, or name a `file` in the mix",
        )
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "images"
    original = Image.open(folder / source.choice(("china.jpg", "flower.jpg"))).convert("RGB")
    image = original.resize((what.width, what.height), Image.Resampling.BICUBIC)
    body = _encoded(image, 90)
    if what.kilobytes:
        low, high = 20, 98
        while low < high:  # the lowest quality that has the bytes
            middle = (low + high) // 2
            body = _encoded(image, middle)
            low, high = (low, middle) if len(body) >= what.kilobytes * 1000 else (middle + 1, high)
        body = _encoded(image, low)
    return Picture(f"photo {what.width}x{what.height}", body, what.width, what.height, (), weight)


def _word(source: random.Random) -> str:
    if source.random() < 0.25:
        return str(source.randint(1, 99_999))
    word = source.choice(_WORDS)
    return word.capitalize() if source.random() < 0.3 else word


def _file(path: Path, weight: float) -> Picture:
    from trimtab.server.pipeline.header import read

    try:
        body = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", param="images") from error
    header = read(body, 1e6)
    return Picture(path.name, body, header.width, header.height, None, weight)


def _encoded(image: Any, quality: int) -> bytes:
    to = io.BytesIO()
    image.save(to, "JPEG", quality=quality)
    return to.getvalue()
