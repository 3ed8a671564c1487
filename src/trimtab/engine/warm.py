"""Long prompts that come again: which of their pages go to disk, and how they come back.

A prefix is kept when a second request has shared it and it is long; it is written while the engine has
nothing else to do, and what is left when it ends. A prompt whose pages are on disk and not in memory waits
until they are read, straight into pages of the pool, while other requests go on. This lives in the engine's
thread; files are the business of `prefix_store.py`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from trimtab.engine.batch import PAGE_TOKENS
from trimtab.engine.pages import PagePool
from trimtab.engine.prefix_store import Page, PrefixStore
from trimtab.engine.sequence import Sequence as Output

LONG_PAGES = 16
"""A prefix of fewer pages is computed faster than it is worth to keep."""
BATCH_PAGES = 16
"""Written at a time: a request that comes meanwhile shares the machine with no more."""
MOST_CHAINS = 64
FLUSH_S = 5.0

Then = Callable[[], object]


class WarmPrefixes:
    """The engine's side of a prefix store.

    Parameters
    ----------
    page : a page's bytes where they lie
    post : hands a job to the engine's thread
    """

    def __init__(
        self, store: PrefixStore, pool: PagePool, page: Callable[[int], Page], post: Callable[[Then], object]
    ) -> None:
        self.store = store
        self._pool = pool
        self._page = page
        self._post = post
        self._chains: OrderedDict[bytes, list[bytes]] = OrderedDict()  # by their last digest
        self._loading: dict[bytes, list[Then]] = {}  # first digest of a load -> who waits for it, too
        self._saving = False

    def fetch(self, sequence: Output, then: Then) -> None:
        """Bring what is on disk of a sequence's prompt into the pool, then go on with `then`."""
        # The row of the last token is computed in any case: it gives the next one.
        digests = sequence.digests[1 : 1 + (len(sequence.tokens) - 1) // PAGE_TOKENS]
        start = 0
        while start < len(digests) and self._pool.holds(digests[start]):
            start += 1
        end = self.store.reach(digests, start) if sequence.shares else start
        if end == start or end < LONG_PAGES:
            then()
            return
        if (waiting := self._loading.get(digests[start])) is not None:
            waiting.append(lambda: self.fetch(sequence, then))
            return
        first = [page for digest in digests[:start] if (page := self._pool.share(digest)) is not None]
        pages = self._pool.take(end - start)
        if pages is None:
            self._pool.give(first)
            then()
            return
        self._loading[digests[start]] = [then]

        def loaded(good: int) -> None:
            for page, digest in zip(pages[:good], digests[start:end], strict=False):
                self._pool.publish(page, digest)
            self._pool.give([*first, *pages])
            for waiter in self._loading.pop(digests[start]):
                waiter()

        views = [self._page(page) for page in pages]
        self.store.load(digests[start:end], views, lambda good: self._post(lambda: loaded(good)))
        self.store.touch(digests[:end])

    def stats(self) -> dict[str, int]:
        """Figures for `Engine.stats`."""
        store = self.store
        return {
            "prefix_pages_read": store.read_pages,
            "prefix_pages_written": store.written_pages,
            "prefix_disk_bytes": store.disk_bytes,
        }

    def note(self, sequence: Output) -> None:
        """A sequence has its first token: what it shared is worth keeping, if it is long."""
        count = sequence.cached // PAGE_TOKENS
        if count < LONG_PAGES or not self.store.writable:
            return
        chain = sequence.digests[1 : count + 1]
        self._chains[chain[-1]] = chain
        self._chains.move_to_end(chain[-1])
        if len(self._chains) > MOST_CHAINS:
            self._chains.popitem(last=False)

    def idle(self) -> None:
        """Nothing else is to be done: write a few pages, if there are any to write."""
        while self._chains and not self._saving:
            self._save(*next(iter(self._chains.items())))

    def finish(self) -> None:
        """The engine ends: write what is left, in bounded time; nobody touches pages after this."""
        for chain in reversed(self._chains.values()):  # the latest first
            start = self.store.reach(chain)
            pages = self._taken(chain[start:])
            views = [self._page(page) for page in pages]
            self.store.save(chain[start : start + len(pages)], views, lambda: None)
            self.store.touch(chain[: start + len(pages)])
        self.store.close(FLUSH_S)

    def _save(self, last: bytes, chain: list[bytes]) -> None:
        """Begin to write the next pages of a chain; it is forgotten when there are none."""
        start = self.store.reach(chain)
        pages = self._taken(chain[start : start + BATCH_PAGES])
        end = start + len(pages)
        if not pages:
            del self._chains[last]
            self.store.touch(chain[:end])
            return

        def saved() -> None:
            self._pool.give(pages)
            self._saving = False
            if self.store.reach(chain) < end:  # a full disk or a bound too small: trying again would not help
                self._chains.pop(last, None)

        self._saving = True
        views = [self._page(page) for page in pages]
        self.store.save(chain[start:end], views, lambda: self._post(saved))
        self.store.touch(chain[:end])

    def _taken(self, digests: Sequence[bytes]) -> list[int]:
        """References to the pages of these digests, up to the first that is in memory no more."""
        pages: list[int] = []
        for digest in digests:
            page = self._pool.share(digest)
            if page is None:
                break
            pages.append(page)
        return pages
