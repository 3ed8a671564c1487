"""What `/metrics` says of a pipeline, in Prometheus's format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.server.watching.prometheus import Page

if TYPE_CHECKING:
    from trimtab.server.pipeline.served import ServedPipeline


def page(served: ServedPipeline) -> str:
    """All figures of the pipeline as they are now."""
    seen = served.pipeline.snapshot()
    to = Page(("trimtab:pipeline_",), {"model_name": served.name})
    to.gauge("pictures_in_work", "Pictures in work or waiting.", seen["in_work"])
    to.gauge("backlog_cpu_seconds", "Processor time that they are expected to take.", seen["backlog_s"])
    to.counters("pictures", "Pictures by how they ended.",
                [({"outcome": name}, count) for name, count in seen["outcomes"].items()]
                or [({"outcome": "done"}, 0)])  # fmt: skip
    to.counter("megapixels", "Pixels of these pictures, in millions.", seen["megapixels"])
    to.counter("items", "Crops of these pictures.", seen["items"])
    latency = seen["latency"]
    to.histogram(
        "seconds", "From the first byte to the last one sent.",
        latency["buckets"], latency["count"], latency["sum"],
    )  # fmt: skip
    to.counters("stage_seconds", "Time of requests by what they waited for or were in.",
                [(_labels(name), seconds) for name, seconds in seen["seconds"].items()])  # fmt: skip
    to.counters("stage_cpu_seconds", "Processor time by what it was used for.",
                [(_labels(name), seconds) for name, seconds in seen["cpu_s"].items()])  # fmt: skip
    for key, name, help_text in (
        ("waiting", "stage_waiting", "Items that wait for a stage."),
        ("running", "stage_running", "Batches in work."),
    ):
        to.gauges(name, help_text, [({"stage": one["name"]}, one[key]) for one in seen["stages"]])
    for key, name, help_text in (
        ("batches", "stage_batches", "Batches done."), ("units", "stage_items", "Items done."),
    ):  # fmt: skip
        to.counters(name, help_text, [({"stage": one["name"]}, one[key]) for one in seen["stages"]])
    to.counters("stage_columns", "Columns of crops by whether they hold pixels or padding.",
                [({"stage": one["name"], "kind": kind}, count)
                 for one in seen["stages"] for kind, count in one["columns"].items()])  # fmt: skip
    return to.text()


def _labels(name: str) -> dict[str, str]:
    stage, _, what = name.partition(": ")
    return {"stage": stage, "what": what or stage}
