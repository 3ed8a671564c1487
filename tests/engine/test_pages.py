"""The pool never loses a page, never hands one out twice, and shares only what is equal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.pages import PagePool, next_digest, pages_for, root_digest

PAGES = 12


def digest(number: int) -> bytes:
    return next_digest(root_digest(), bytes([number]))


VERBS = st.sampled_from(["take", "give", "share", "publish", "forget"])


@given(st.lists(st.tuples(VERBS, st.integers(0, 9))))
def test_pages_are_never_lost_or_shared_by_accident(moves: list[tuple[str, int]]) -> None:
    pool = PagePool(PAGES)
    held: list[list[int]] = []  # what each holder has, one entry a reference
    content: dict[int, int] = {}  # page -> what was published with it
    for verb, number in moves:
        before = {page for pages in held for page in pages}
        if verb == "take":
            pages = pool.take(number)
            assert (pages is None) == (number > PAGES - len(before))
            assert before.isdisjoint(pages or ())
            for page in pages or ():
                content.pop(page, None)
            held.append(pages or [])
        elif verb == "give" and held:
            pool.give(held.pop(number % len(held)))
        elif verb == "share":
            page = pool.share(digest(number))
            if page is not None:
                assert content[page] == number
                held.append([page])
        elif verb == "publish" and (fresh := sorted(before - content.keys())):
            page = fresh[number % len(fresh)]
            pool.publish(page, digest(number))
            if number not in content.values():
                content[page] = number
        elif verb == "forget":
            pool.forget()
            content.clear()
        now = {page for pages in held for page in pages}
        assert pool.held == len(now)
        assert pool.available == PAGES - len(now)
        assert pool.idle <= pool.available
    for pages in held:
        pool.give(pages)
    assert pool.available == PAGES
    taken = pool.take(PAGES)
    assert taken is not None
    assert sorted(taken) == list(range(PAGES))


def test_an_idle_page_can_be_shared_until_its_space_is_needed() -> None:
    pool = PagePool(3)
    first, second = pool.take(2) or []
    pool.publish(first, digest(1))
    pool.publish(second, digest(2))
    pool.give([first, second])
    assert pool.idle == 2
    assert pool.share(digest(2)) == second
    pool.give([second])
    # The page nobody published goes first, then the one that was longest out of use.
    assert (pool.take(1) or [])[0] not in (first, second)
    assert pool.take(1) == [first]
    assert pool.share(digest(1)) is None
    assert pool.share(digest(2)) == second


def test_the_end_of_a_text_is_evicted_before_its_beginning() -> None:
    pool = PagePool(3)
    pages = pool.take(3) or []
    for number, page in enumerate(pages):
        pool.publish(page, digest(number))
    pool.give(pages)
    pool.take(2)
    assert pool.share(digest(0)) == pages[0]
    assert pool.share(digest(1)) is None


def test_pages_never_needed_are_never_touched() -> None:
    pool = PagePool(1000)
    for _ in range(50):
        pages = pool.take(3) or []
        assert max(pages) < 3
        pool.give(pages)


def test_salt_and_prefix_make_the_digest() -> None:
    one, other = root_digest("a"), root_digest("b")
    assert one != other
    assert next_digest(one, b"x") != next_digest(other, b"x") != next_digest(other, b"y")
    assert (pages_for(0), pages_for(1), pages_for(16), pages_for(17)) == (0, 1, 1, 2)
