"""A pipeline at work: answers, limits, deadlines, and failures that stay where they happen."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from pictures import DIRECTION, encoded, spec_of, through

from trimtab.errors import Busy, TrimtabError
from trimtab.server.pipeline.runtime import Failed, Pipeline, TooLate
from trimtab.server.pipeline.work import Job

BODY = encoded(192, 48)


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    made = Pipeline(spec_of(DIRECTION, cores=2))
    yield made
    made.close()


def test_a_picture_comes_through_and_its_time_is_accounted_for(pipeline: Pipeline) -> None:
    job = through(pipeline, BODY)
    assert job.error is None
    assert len(job.items) == 1
    assert 0 <= job.items[0].turn_score <= 1
    total = job.ended_at - job.trace.began
    assert job.trace.covered_s() <= total * 1.001
    assert {"decode: decoded", "direction: inference"} <= set(job.trace.cpu_s)


def test_many_at_a_time_all_come_through(pipeline: Pipeline) -> None:
    seen, over = [], threading.Event()

    def tell(job: Job) -> None:
        seen.append(job)
        if len(seen) == 40:
            over.set()

    for _ in range(40):
        pipeline.submit(BODY, tell)
    assert over.wait(60)
    assert all(job.error is None for job in seen)
    assert len({id(job) for job in seen}) == 40
    now = pipeline.snapshot()
    assert now["in_work"] == 0
    assert now["backlog_s"] == pytest.approx(0, abs=1e-6)


def test_a_damaged_picture_fails_alone(pipeline: Pipeline) -> None:
    bad = encoded(192, 48, "PNG")[:-900]
    answers: dict[str, Job] = {}
    over = threading.Semaphore(0)
    for name, body in (("good", BODY), ("bad", bad), ("good too", BODY)):

        def tell(job: Job, name: str = name) -> None:
            answers[name] = job
            over.release()

        pipeline.submit(body, tell)
    for _ in range(3):
        assert over.acquire(timeout=60)
    assert isinstance(answers["bad"].error, TrimtabError)
    assert answers["bad"].error.http_status == 400
    assert answers["good"].error is answers["good too"].error is None


def test_a_deadline_that_has_passed_ends_a_job(pipeline: Pipeline) -> None:
    for _ in range(3):  # so that its cost is known to be small
        through(pipeline, BODY)
    over = threading.Event()
    job = pipeline.submit(BODY, lambda job: over.set())
    job.deadline = 0.0
    assert over.wait(60)
    assert job.error is None or isinstance(job.error, TooLate)
    hopeless = pipeline.costs.expect(0.01) / 1e3
    with pytest.raises(Busy, match="deadline"):
        pipeline.submit(BODY, lambda job: None, deadline_s=hopeless)


def test_a_cancelled_job_ends_once(pipeline: Pipeline) -> None:
    told: list[Job] = []
    over = threading.Event()
    job = pipeline.submit(BODY, lambda job: (told.append(job), over.set())[0])
    job.cancel()
    assert over.wait(60)
    through(pipeline, BODY)
    assert len(told) == 1


def test_too_many_are_refused_and_told_when_to_come_back() -> None:
    pipeline = Pipeline(spec_of(DIRECTION, cores=1, limits={"waiting": 3}))
    gate = threading.Event()
    op = pipeline.stages[0].op
    assert op is not None
    run = op.run
    op.run = lambda units, laps: (gate.wait(60), run(units, laps))[1]  # type: ignore[method-assign]
    over = threading.Semaphore(0)
    try:
        for _ in range(3):
            pipeline.submit(BODY, lambda job: over.release())
        with pytest.raises(Busy) as refused:
            pipeline.submit(BODY, lambda job: None)
        assert (refused.value.retry_after_s or 0) >= 1
        assert refused.value.http_status == 429
    finally:
        gate.set()
    for _ in range(3):
        assert over.acquire(timeout=60)
    with pytest.raises(Busy):  # one tenant has its own bound
        pipeline.submit(BODY, lambda job: None, tenant="a", most_each=0)
    pipeline.close()


def test_an_operation_that_fails_takes_only_its_batch_down(pipeline: Pipeline) -> None:
    op = pipeline.stages[-1].op
    assert op is not None
    run = op.run

    def fails(units: object, laps: object) -> None:
        raise RuntimeError("broken")

    op.run = fails  # type: ignore[method-assign, assignment]
    try:
        job = through(pipeline, BODY)
    finally:
        op.run = run  # type: ignore[method-assign]
    assert isinstance(job.error, Failed)
    assert "broken" in job.error.message
    assert through(pipeline, BODY).error is None


def test_closing_answers_those_who_wait() -> None:
    pipeline = Pipeline(spec_of(DIRECTION, cores=1))
    ended = threading.Semaphore(0)
    jobs = [pipeline.submit(BODY, lambda job: ended.release()) for _ in range(5)]
    pipeline.close()
    for _ in jobs:
        assert ended.acquire(timeout=60)
    assert all(job.error is None or isinstance(job.error, Busy) for job in jobs)
    with pytest.raises(Busy, match="shutting down"):
        pipeline.submit(BODY, lambda job: None)
