"""One request's time, as intervals that are noted while it happens and divided up afterwards.

Crops of one request run at the same time, so their intervals overlap; a moment that several share is
divided between them. The budget therefore is a partition: its parts add up to the time covered, and what is
missing to the whole is time that nobody has accounted for. Processor time is kept beside, and only that may
be added over requests to say what a stage demands.
"""

from __future__ import annotations

from collections import Counter

Span = tuple[str, float, float, int]


class Trace:
    """Intervals of one request; written by whoever works on it.

    Parameters
    ----------
    began : when its first byte was there, of the monotonic clock
    """

    __slots__ = ("began", "cpu_s", "spans")

    def __init__(self, began: float = 0.0) -> None:
        self.began = began
        self.spans: list[Span] = []
        self.cpu_s: dict[str, float] = {}

    def add(self, name: str, begin: float, end: float, cpu_s: float = 0.0, weight: int = 1) -> None:
        """An interval in which `weight` parts of the request were busy with `name`."""
        self.spans.append((name, begin, end, weight))  # one append: safe without a lock
        if cpu_s:
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + cpu_s

    def budget(self) -> dict[str, float]:
        """Seconds by name, each moment divided between what went on in it; in order of first appearance."""
        return divided(self.spans)

    def covered_s(self) -> float:
        """Length of the union of all intervals."""
        return sum(self.budget().values())


def divided(spans: list[Span]) -> dict[str, float]:
    """Partition the union of weighted intervals among their names."""
    seconds = {name: 0.0 for name, *_ in sorted(spans, key=lambda span: span[1])}
    events = [(begin, index, 1) for index, (_, begin, end, _) in enumerate(spans) if end > begin]
    events += [(end, index, -1) for index, (_, begin, end, _) in enumerate(spans) if end > begin]
    events.sort(key=lambda event: event[0])
    active: Counter[str] = Counter()
    total, last = 0, 0.0
    for at, index, step in events:
        if total and at > last:
            for name, count in active.items():
                if count:
                    seconds[name] += (at - last) * count / total
        last = at
        name, _, _, weight = spans[index]
        active[name] += step * weight
        total += step * weight
    return seconds
