"""Prometheus's text format: counters, gauges and histograms as lines, exactly.

Of its own because the client library would cost a tenth of the time that the server takes to start. Nothing
here knows what is measured.

References: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]


class Page:
    """One answer to a scrape.

    Parameters
    ----------
    prefixes : each metric is written once with each, such as `trimtab:`
    labels : of every sample
    """

    def __init__(self, prefixes: tuple[str, ...], labels: Labels) -> None:
        self._prefixes = prefixes
        self._labels = dict(labels)
        self._lines: list[str] = []

    def counter(self, name: str, help_text: str, value: float, labels: Labels | None = None) -> None:
        """A figure that only grows; its sample ends in `_total`."""
        self.counters(name, help_text, [(labels or {}, value)])

    def counters(self, name: str, help_text: str, samples: Iterable[tuple[Labels, float]]) -> None:
        """Such figures by their labels."""
        self._metric(name, help_text, "counter", [("_total", labels, value) for labels, value in samples])

    def gauge(self, name: str, help_text: str, value: float, labels: Labels | None = None) -> None:
        """A figure that goes up and down."""
        self._metric(name, help_text, "gauge", [("", labels or {}, value)])

    def gauges(self, name: str, help_text: str, samples: Iterable[tuple[Labels, float]]) -> None:
        """Such figures by their labels."""
        self._metric(name, help_text, "gauge", [("", labels, value) for labels, value in samples])

    def histogram(
        self, name: str, help_text: str, buckets: Iterable[tuple[float, int]], count: int, total: float
    ) -> None:
        """How values are spread.

        Parameters
        ----------
        buckets : (upper bound, how many values up to it); the last bound is infinite
        """
        samples: list[tuple[str, Labels, float]] = []
        samples += [("_bucket", {"le": number(bound)}, below) for bound, below in buckets]
        self._metric(name, help_text, "histogram", [*samples, ("_count", {}, count), ("_sum", {}, total)])

    def text(self) -> str:
        """The whole."""
        return "".join(self._lines)

    def _metric(
        self,
        name: str,
        help_text: str,
        kind: Literal["counter", "gauge", "histogram"],
        samples: list[tuple[str, Labels, float]],
    ) -> None:
        for prefix in self._prefixes:
            full = prefix + name
            family = f"{full}_total" if kind == "counter" else full
            self._lines.append(f"# HELP {family} {_escaped(help_text)}\n# TYPE {family} {kind}\n")
            for suffix, labels, value in samples:
                self._lines.append(f"{full}{suffix}{_labels(self._labels, labels)} {number(value)}\n")


def number(value: float) -> str:
    """A value or a bucket's bound, as Prometheus reads it."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _labels(common: Labels, own: Labels) -> str:
    pairs = {**common, **own}
    if not pairs:
        return ""
    return "{" + ",".join(f'{name}="{_quoted(value)}"' for name, value in pairs.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')
