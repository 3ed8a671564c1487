"""Who holds which page of the cache, and which pages hold a text that somebody may want again.

The pool hands out page numbers and counts references. A page that has been filled can be published under
the digest of everything up to its end; the next sequence that starts with the same tokens shares it instead
of computing it. Published pages that nobody holds stay until their space is needed, least recently used
first. The pool never sees a tensor, a request or a token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b

from trimtab.engine.batch import PAGE_TOKENS


def root_digest(salt: str = "") -> bytes:
    """Digest before the first page; sequences of different salts never share pages."""
    return blake2b(salt.encode(), digest_size=32).digest()


def next_digest(digest: bytes, tokens: bytes) -> bytes:
    """Digest of a prefix that ends with one more full page; `tokens` are its PAGE_TOKENS int32.

    It is long enough that nobody can make two prefixes with one digest, so a hit is a proof of equality.
    """
    return blake2b(digest + tokens, digest_size=32).digest()


def pages_for(tokens: int) -> int:
    """Pages that hold this many positions."""
    return -(-tokens // PAGE_TOKENS)


class PagePool:
    """The pages of one cache, numbered 0 to num_pages - 1.

    Every page is in exactly one state: free (content worthless), held (one or more references), or idle
    (published, no reference, taken back when free pages run out).
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        # The lowest numbers go out first and come back first: pages never needed are never touched.
        self._free = list(range(num_pages - 1, -1, -1))
        self._references = [0] * num_pages
        self._digest: list[bytes | None] = [None] * num_pages
        self._published: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self.given = 0
        """References given back so far: while it stands still, nothing has become available."""

    @property
    def available(self) -> int:
        """Pages that `take` can hand out now."""
        return len(self._free) + len(self._idle)

    @property
    def held(self) -> int:
        """Pages that somebody holds."""
        return self.num_pages - self.available

    @property
    def idle(self) -> int:
        """Pages that nobody holds but whose content can still be shared."""
        return len(self._idle)

    def take(self, count: int) -> list[int] | None:
        """Hand out `count` pages with one reference each, or None (and nothing) when there are fewer."""
        if count > len(self._free) + len(self._idle):
            return None
        pages = []
        for _ in range(count):
            page = self._free.pop() if self._free else self._evict()
            self._references[page] = 1
            pages.append(page)
        return pages

    def holds(self, digest: bytes) -> bool:
        """Whether some page is published under `digest`."""
        return digest in self._published

    def share(self, digest: bytes) -> int | None:
        """One more reference to the page published under `digest`, or None when there is no such page."""
        page = self._published.get(digest)
        if page is None:
            return None
        if self._references[page] == 0:
            del self._idle[page]
        self._references[page] += 1
        return page

    def publish(self, page: int, digest: bytes) -> None:
        """Let others share a held page, full and final. The first page published under a digest stays."""
        if digest not in self._published and self._digest[page] is None:
            self._published[digest] = page
            self._digest[page] = digest

    def give(self, pages: Iterable[int]) -> None:
        """Give one reference of each page back; a sequence gives its pages in the order of its positions."""
        # The end of a text goes first: a prefix is more likely to be wanted again than what followed it.
        for page in reversed(list(pages)):
            self._references[page] -= 1
            if self._references[page] == 0:
                if self._digest[page] is None:
                    self._free.append(page)
                else:
                    self._idle[page] = None
            self.given += 1

    def forget(self) -> None:
        """Drop every published text; held pages stay with their holders."""
        self._free.extend(self._idle)
        self._idle.clear()
        self._published.clear()
        self._digest = [None] * self.num_pages

    def _evict(self) -> int:
        page, _ = self._idle.popitem(last=False)
        digest = self._digest[page]
        if digest is not None:
            del self._published[digest]
        self._digest[page] = None
        return page
